{{/* Pods of Ray: the head and one group a role, all from here. */}}

{{/* Parameters of `ray start`. Takes root and component. */}}
{{- define "triptych.rayStartParams" -}}
{{- $ray := .root.Values.ports.ray -}}
num-cpus: "0"
object-store-memory: "83886080"
node-manager-port: {{ $ray.nodeManager | quote }}
object-manager-port: {{ $ray.objectManager | quote }}
runtime-env-agent-port: {{ $ray.runtimeEnvAgent | quote }}
dashboard-agent-grpc-port: {{ $ray.dashboardAgentGrpc | quote }}
dashboard-agent-listen-port: {{ $ray.dashboardAgent | quote }}
metrics-export-port: {{ $ray.metrics | quote }}
min-worker-port: {{ $ray.workers.min | quote }}
max-worker-port: {{ $ray.workers.max | quote }}
{{- if eq .component "head" }}
port: {{ $ray.gcs | quote }}
dashboard-host: 0.0.0.0
dashboard-port: {{ $ray.dashboard | quote }}
{{- end }}
{{- end -}}

{{/* Time that Kubernetes gives a pod of a role. */}}
{{- define "triptych.grace" -}}
{{- $drain := .drain -}}
{{- $sum := add $drain.preStopSeconds $drain.seconds $drain.marginSeconds -}}
{{- ternary $sum $drain.gracePeriodSeconds (kindIs "invalid" $drain.gracePeriodSeconds) | int -}}
{{- end -}}

{{/* Affinity of a role that has none of its own. */}}
{{- define "triptych.affinity" -}}
{{- if eq .component "frontdoor" -}}
podAntiAffinity:
  preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels: {{- include "triptych.selectorLabels" . | nindent 12 }}
{{- else if and .root.Values.topology.keys (ne .component "head") -}}
podAffinity:
  preferredDuringSchedulingIgnoredDuringExecution:
    {{- range $far, $key := .root.Values.topology.keys }}
    - weight: {{ index (list 100 50 10) $far }}
      podAffinityTerm:
        topologyKey: {{ $key }}
        labelSelector:
          matchLabels: {{- include "triptych.releaseLabels" $.root | nindent 12 }}
          matchExpressions:
            - {key: app.kubernetes.io/component, operator: In, values: [encode, prefill, decode, draft]}
    {{- end }}
{{- end -}}
{{- end -}}

{{- define "triptych.raylet" -}}
httpGet: {path: /api/local_raylet_healthz, port: {{ .Values.ports.ray.dashboardAgent }}}
{{- end -}}

{{/* Mounts of whatever reads the configuration and the model. */}}
{{- define "triptych.mounts" -}}
- {name: config, mountPath: /etc/triptych/config, readOnly: true}
- {name: state, mountPath: /var/lib/triptych}
- {name: tmp, mountPath: /tmp}
{{- if eq .root.Values.model.source "claim" }}
- {name: models, mountPath: /models, readOnly: true}
{{- end }}
{{- with .pod.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Pod template of a group. Takes root, component and pod, a role with its defaults. */}}
{{- define "triptych.podTemplate" -}}
{{- $root := .root -}}
{{- $pod := .pod -}}
{{- $values := $root.Values -}}
{{- $isHead := eq .component "head" -}}
{{- $isFrontDoor := eq .component "frontdoor" -}}
{{- $autoscaled := $values.ray.autoscaling.enabled -}}
metadata:
  labels: {{- merge (include "triptych.labels" . | fromYaml) $pod.podLabels | toYaml | nindent 4 }}
  {{- with merge (dict) $pod.podAnnotations $values.commonAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- if not (and $isHead $autoscaled) }}{{/* the autoscaler beside the head has an account of KubeRay's */}}
  serviceAccountName: {{ include "triptych.serviceAccountName" $root }}
  automountServiceAccountToken: false
  {{- end }}
  {{- if $autoscaled }}
  restartPolicy: Never
  {{- end }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "triptych.grace" $pod }}
  securityContext: {{- include "triptych.podSecurityContext" . | nindent 4 }}
  {{- with $values.global.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $pod.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $pod.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $pod.affinity | default (include "triptych.affinity" . | fromYaml) }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $pod.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- range . }}
    - {{- merge . (dict "labelSelector" (dict "matchLabels" (include "triptych.selectorLabels" $ | fromYaml))) | toYaml | nindent 6 }}
    {{- end }}
  {{- end }}
  {{- with $pod.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $pod.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with $pod.schedulerName }}
  schedulerName: {{ . }}
  {{- end }}
  {{- if $pod.hostNetwork }}
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  {{- end }}
  {{- with $pod.resourceClaims }}
  resourceClaims: {{- toYaml . | nindent 4 }}
  {{- end }}
  initContainers:
    - name: model
      image: {{ include "triptych.image" $root }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      command: [python, -m, services.cluster, model, --config, /etc/triptych/config/config.yaml]
      {{- if $values.model.download.enabled }}
      args: [--wait-s, "86400"]
      {{- end }}
      env: {{- include "triptych.env" . | nindent 8 }}
      securityContext: {{- include "triptych.securityContext" . | nindent 8 }}
      resources: {requests: {cpu: 500m, memory: 2Gi}, limits: {memory: 2Gi}}
      volumeMounts: {{- include "triptych.mounts" . | nindent 8 }}
    {{- with $pod.initContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  containers:
    - name: {{ ternary "ray-head" "ray-worker" $isHead }}
      image: {{ include "triptych.image" $root }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      env: {{- include "triptych.env" . | nindent 8 }}
      {{- with $pod.envFrom }}
      envFrom: {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext: {{- include "triptych.securityContext" . | nindent 8 }}
      ports:
        {{- if $isHead }}
        - {name: gcs-server, containerPort: {{ $values.ports.ray.gcs }}}
        - {name: dashboard, containerPort: {{ $values.ports.ray.dashboard }}}
        {{- end }}
        {{- if $isFrontDoor }}
        - {name: grpc, containerPort: {{ $values.ports.grpc }}}
        - {name: http, containerPort: {{ $values.ports.http }}}
        {{- end }}
        - {name: metrics, containerPort: {{ $values.ports.metrics }}}
        - {name: ray-metrics, containerPort: {{ $values.ports.ray.metrics }}}
      {{- if not $isHead }}
      lifecycle:
        preStop:
          exec:
            command:
              - python
              - -m
              - services.cluster
              - leave
              - --config=/etc/triptych/config/config.yaml
              - --settle-s={{ $pod.drain.preStopSeconds }}
              - --drain-s={{ add $pod.drain.seconds 5 }}
      {{- end }}
      # KubeRay's own probe of a worker asks for a Serve proxy on its host, and there is none (kuberay#4994).
      readinessProbe:
        {{- if $isHead }}
        httpGet: {path: /api/gcs_healthz, port: {{ $values.ports.ray.dashboard }}}
        {{- else if $isFrontDoor }}
        httpGet: {path: /readyz, port: http, scheme: {{ ternary "HTTPS" "HTTP" $values.tls.enabled }}}
        {{- else }}
        {{- include "triptych.raylet" $root | nindent 8 }}
        {{- end }}
        periodSeconds: {{ $pod.readiness.periodSeconds }}
        timeoutSeconds: {{ $pod.readiness.timeoutSeconds }}
        failureThreshold: {{ $pod.readiness.failureThreshold }}
      # Only a host whose Ray is dead is started again; missing workers are no reason. Ten minutes, as KubeRay has it.
      livenessProbe:
        {{- include "triptych.raylet" $root | nindent 8 }}
        initialDelaySeconds: 30
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 120
      resources: {{- include "triptych.resources" $pod | nindent 8 }}
      volumeMounts:
        {{- include "triptych.mounts" . | nindent 8 }}
        - {name: shm, mountPath: /dev/shm}
        {{- if $isFrontDoor }}
        {{- if $values.tls.enabled }}
        - {name: tls, mountPath: /etc/triptych/tls, readOnly: true}
        {{- end }}
        {{- if $values.auth.existingSecret }}
        - {name: auth, mountPath: /etc/triptych/auth, readOnly: true}
        {{- end }}
        {{- if include "triptych.redisSecret" $root }}
        - {name: redis, mountPath: /etc/triptych/redis, readOnly: true}
        {{- end }}
        {{- end }}
    {{- with $pod.sidecars }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    - name: config
      configMap: {name: {{ include "triptych.fullname" $root }}-config}
    - name: state
      emptyDir: {sizeLimit: {{ $pod.scratchSize }}}
    - name: tmp
      emptyDir: {sizeLimit: {{ $pod.scratchSize }}}
    - name: shm
      emptyDir: {medium: Memory, sizeLimit: {{ $pod.shmSize }}}
    {{- if eq $values.model.source "claim" }}
    - name: models
      persistentVolumeClaim: {claimName: {{ include "triptych.modelClaim" $root }}, readOnly: true}
    {{- end }}
    {{- if $isFrontDoor }}
    {{- if $values.tls.enabled }}
    - name: tls
      secret: {secretName: {{ include "triptych.tlsSecret" $root }}, defaultMode: 288}
    {{- end }}
    {{- with $values.auth }}
    {{- if .existingSecret }}
    - name: auth
      secret:
        secretName: {{ .existingSecret }}
        defaultMode: 288
        items: [{key: {{ .keysKey }}, path: keys.yaml}, {key: {{ .secretKey }}, path: secret}]
    {{- end }}
    {{- end }}
    {{- with include "triptych.redisSecret" $root }}
    - name: redis
      secret:
        secretName: {{ . }}
        defaultMode: 288
        items: [{key: {{ $values.redis.external.key }}, path: password}]
    {{- end }}
    {{- end }}
    {{- with $pod.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{- define "triptych.env" -}}
{{- range $name, $value := merge (dict) .pod.env (include "triptych.environment" .root | fromYaml) }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end -}}

{{- define "triptych.resources" -}}
{{- $resources := deepCopy .resources -}}
{{- if gt (int .accelerators.count) 0 -}}
{{- $accelerators := dict .accelerators.resource (int .accelerators.count) -}}
{{- $_ := merge $resources (dict "requests" (dict) "limits" (dict)) -}}
{{- $_ := merge $resources.requests $accelerators -}}
{{- $_ := merge $resources.limits $accelerators -}}
{{- end -}}
{{- with .resourceClaims -}}
{{- $names := list -}}
{{- range . }}{{ $names = append $names (dict "name" .name) }}{{ end -}}
{{- $_ := set $resources "claims" $names -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* Security of a pod and of a container: everybody's, and what a role changes. */}}
{{- define "triptych.podSecurityContext" -}}
{{- $context := mergeOverwrite (deepCopy .root.Values.podSecurityContext) (deepCopy .pod.podSecurityContext) -}}
{{- if and .root.Values.networkPolicy.enabled (not .pod.hostNetwork) -}}
{{- $range := .root.Values.ports.ephemeral -}}
{{- $port := dict "name" "net.ipv4.ip_local_port_range" "value" (printf "%d %d" (int $range.min) (int $range.max)) -}}
{{- $_ := set $context "sysctls" (append (default (list) $context.sysctls) $port) -}}
{{- end -}}
{{- toYaml $context -}}
{{- end -}}

{{- define "triptych.securityContext" -}}
{{- mergeOverwrite (deepCopy .root.Values.securityContext) (deepCopy .pod.securityContext) | toYaml -}}
{{- end -}}

{{- define "triptych.tlsSecret" -}}
{{- .Values.tls.existingSecret | default (printf "%s-tls" (include "triptych.fullname" .)) -}}
{{- end -}}

{{/* The cluster that RayService and RayCluster describe. */}}
{{- define "triptych.rayCluster" -}}
{{- $values := .Values -}}
{{- $ray := $values.ray -}}
{{- $config := include "triptych.config" . | fromYaml -}}
rayVersion: {{ $ray.version }}
{{- if $ray.autoscaling.enabled }}
enableInTreeAutoscaling: true
autoscalerOptions:
  version: v2
  idleTimeoutSeconds: {{ $ray.autoscaling.idleTimeoutSeconds }}
  securityContext: {{- toYaml $values.securityContext | nindent 4 }}
{{- end }}
authOptions:
  mode: {{ $ray.auth.mode }}
  {{- if and (eq $ray.auth.mode "token") $ray.auth.existingSecret }}
  secretName: {{ $ray.auth.existingSecret }}
  {{- end }}
{{- if $ray.gcsFaultTolerance.enabled }}
gcsFaultToleranceOptions:
  redisAddress: {{ include "triptych.redisAddress" . }}
  externalStorageNamespace: {{ include "triptych.fullname" . }}
  {{- with $values.redis.external }}
  {{- if and (eq $values.redis.mode "external") .username }}
  redisUsername: {value: {{ .username | quote }}}
  {{- end }}
  {{- if and (eq $values.redis.mode "external") .existingSecret }}
  redisPassword:
    valueFrom: {secretKeyRef: {name: {{ .existingSecret }}, key: {{ .key }}}}
  {{- end }}
  {{- end }}
{{- end }}
headGroupSpec:
  rayStartParams: {{- include "triptych.rayStartParams" (dict "root" . "component" "head") | nindent 4 }}
  template: {{- include "triptych.podTemplate" (dict "root" . "component" "head" "pod" (include "triptych.head" . | fromJson)) | nindent 4 }}
workerGroupSpecs:
  {{- range $name, $role := include "triptych.roles" . | fromJson }}
  - groupName: {{ $name }}
    replicas: {{ $role.replicas }}
    minReplicas: {{ ternary $role.replicas $role.minReplicas (kindIs "invalid" $role.minReplicas) }}
    maxReplicas: {{ ternary $role.replicas $role.maxReplicas (kindIs "invalid" $role.maxReplicas) }}
    rayStartParams: {{- include "triptych.rayStartParams" (dict "root" $ "component" $name) | nindent 6 }}
    # A front door takes one unit, a worker one for each of its tensor-parallel ranks: one of them fills a pod.
    resources: { {{ $name }}: {{ dig "pools" $name "tp" 1 $config | quote }} }
    template: {{- include "triptych.podTemplate" (dict "root" $ "component" $name "pod" $role) | nindent 6 }}
  {{- end }}
{{- end -}}

{{/* The head as a pod of `triptych.podTemplate`: what all roles share, without accelerators and helpers. */}}
{{- define "triptych.head" -}}
{{- $own := deepCopy .Values.ray.head -}}
{{- $_ := set $own "drain" (dict "gracePeriodSeconds" .Values.ray.head.gracePeriodSeconds) -}}
{{- $_ := set $own "accelerators" (dict "count" 0) -}}
{{- $_ := set $own "resourceClaims" list -}}
{{- $_ := set $own "hostNetwork" false -}}
{{- $_ := set $own "initContainers" list -}}
{{- $_ := set $own "sidecars" list -}}
{{- mergeOverwrite (deepCopy .Values.roleDefaults) $own | toJson -}}
{{- end -}}

{{/* Secret with Redis' password; "" where it has none. */}}
{{- define "triptych.redisSecret" -}}
{{- if eq .Values.redis.mode "external" }}{{ .Values.redis.external.existingSecret }}{{ end -}}
{{- end -}}

{{- define "triptych.redisAddress" -}}
{{- if eq .Values.redis.mode "dev" -}}
{{ include "triptych.fullname" . }}-redis:6379
{{- else -}}
{{ .Values.redis.external.host }}:{{ .Values.redis.external.port }}
{{- end -}}
{{- end -}}

{{/* Labels by which queues place a whole cluster. */}}
{{- define "triptych.gangLabels" -}}
{{- with .Values.gang -}}
{{- if eq .scheduler "volcano" -}}
volcano.sh/queue-name: {{ .queue }}
{{- else if eq .scheduler "yunikorn" -}}
ray.io/gang-scheduling-enabled: "true"
yunikorn.apache.org/app-id: {{ include "triptych.fullname" $ }}
yunikorn.apache.org/queue: {{ .queue }}
{{- else if eq .scheduler "kai" -}}
kai.scheduler/queue: {{ .queue }}
{{- else if eq .scheduler "kueue" -}}
kueue.x-k8s.io/queue-name: {{ .queue }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Metadata of RayService and RayCluster. */}}
{{- define "triptych.rayMetadata" -}}
{{- $metadata := include "triptych.metadata" (dict "root" . "component" "ray") | fromYaml -}}
{{- $_ := set $metadata "labels" (merge $metadata.labels (include "triptych.gangLabels" . | fromYaml)) -}}
{{- toYaml $metadata -}}
{{- end -}}
