{{/* One role with its defaults, as JSON. Takes root and role. */}}
{{- define "triptych.role" -}}
{{- mergeOverwrite (deepCopy .root.Values.roleDefaults) (deepCopy (index .root.Values.roles .role)) | toJson -}}
{{- end -}}

{{/* All enabled roles by name, as JSON. */}}
{{- define "triptych.roles" -}}
{{- $roles := dict -}}
{{- range $name := list "frontdoor" "encode" "prefill" "decode" "draft" -}}
{{- $role := include "triptych.role" (dict "root" $ "role" $name) | fromJson -}}
{{- if $role.enabled }}{{ $_ := set $roles $name $role }}{{ end -}}
{{- end -}}
{{- toJson $roles -}}
{{- end -}}

{{/* Where the model is in a pod. */}}
{{- define "triptych.modelPath" -}}
{{- if eq .Values.model.source "bundled" -}}
smollm2-135m-instruct
{{- else if eq .Values.model.source "claim" -}}
/models/{{ .Values.model.path }}
{{- else -}}
{{ .Values.model.path }}
{{- end -}}
{{- end -}}

{{- define "triptych.modelClaim" -}}
{{- .Values.model.claim.existing | default (printf "%s-models" (include "triptych.fullname" .)) -}}
{{- end -}}

{{/* How long the controller lets a worker finish: the longest drain of the worker roles. */}}
{{- define "triptych.workerDrain" -}}
{{- $longest := 0 -}}
{{- range $name, $role := omit (include "triptych.roles" . | fromJson) "frontdoor" -}}
{{- $longest = max $longest (int $role.drain.seconds) -}}
{{- end -}}
{{- $longest -}}
{{- end -}}

{{/* Triptych's configuration: the user's, and what other values decide. */}}
{{- define "triptych.config" -}}
{{- $values := .Values -}}
{{- $ports := $values.ports -}}
{{- $roles := include "triptych.roles" . | fromJson -}}
{{- $pools := dict -}}
{{- range $name, $role := omit $roles "frontdoor" -}}
{{- $_ := set $pools $name (dict "replicas" (int $role.replicas)) -}}
{{- end -}}
{{- $frontdoor := dict
  "host" "0.0.0.0"
  "replicas" (int $roles.frontdoor.replicas)
  "grpc_port" (int $ports.grpc)
  "http_port" (int $ports.http)
  "drain_s" (int $roles.frontdoor.drain.seconds)
-}}
{{- if $values.tls.enabled -}}
{{- $_ := set $frontdoor "tls" (dict "cert_file" "/etc/triptych/tls/tls.crt" "key_file" "/etc/triptych/tls/tls.key") -}}
{{- end -}}
{{- with $values.auth.existingSecret -}}
{{- $files := dict "keys_file" "/etc/triptych/auth/keys.yaml" "secret_file" "/etc/triptych/auth/secret" -}}
{{- $_ := set $frontdoor "auth" $files -}}
{{- end -}}
{{- $redis := dict -}}
{{- if ne $values.redis.mode "none" -}}
{{- $user := ternary $values.redis.external.username "" (eq $values.redis.mode "external") -}}
{{- $address := printf "redis://%s%s/0" (ternary (printf "%s@" $user) "" (ne $user "")) (include "triptych.redisAddress" .) -}}
{{- $redis = dict "url" $address "prefix" (include "triptych.fullname" .) -}}
{{- if include "triptych.redisSecret" . }}{{ $_ := set $redis "password_file" "/etc/triptych/redis/password" }}{{ end -}}
{{- end -}}
{{- $worker := dict
  "host" "ray-node"
  "lend_cores" false
  "store_ports" (list (int $ports.kvStores.min) (int $ports.kvStores.max))
  "peer_ports" (list (int $ports.peers.min) (int $ports.peers.max))
-}}
{{- $derived := dict
  "cluster" (dict "name" (include "triptych.fullname" .))
  "state_folder" "/var/lib/triptych"
  "model" (dict "path" (include "triptych.modelPath" .))
  "pools" $pools
  "controller" (dict "drain_s" (include "triptych.workerDrain" . | int))
  "worker" $worker
  "frontdoor" $frontdoor
  "redis" $redis
  "telemetry" (dict "metrics_ports" (list (int $ports.metrics) (int $ports.metrics)))
-}}
{{- mergeOverwrite (deepCopy $values.config) $derived | toYaml -}}
{{- end -}}

{{/* What Ray Serve is to run, as `serve deploy` and RayService take it: both applications, no proxy. */}}
{{- define "triptych.serveConfig" -}}
{{- $args := dict "cluster_id" (include "triptych.fullname" .) "config" (include "triptych.config" . | fromYaml) -}}
proxy_location: Disabled
logging_config: {log_level: WARNING, enable_access_log: false}
applications:
  - name: control
    import_path: services.cluster.app:control
    route_prefix: null
    args: {{- toYaml $args | nindent 6 }}
  - name: triptych
    import_path: services.cluster.app:front_doors
    route_prefix: null
    args: {{- toYaml $args | nindent 6 }}
{{- end -}}

{{/* Environment of every process. */}}
{{- define "triptych.environment" -}}
TRIPTYCH_CLUSTER_ID: {{ include "triptych.fullname" . }}
HOME: /var/lib/triptych
RAY_USAGE_STATS_ENABLED: "0"
RAY_IGNORE_UNHANDLED_ERRORS: "1"
RAY_DEDUP_LOGS_SKIP_REGEX: .
RAY_worker_niceness: "0"
RAY_SERVE_CONTROL_LOOP_INTERVAL_S: "0.5"
HF_HUB_OFFLINE: "1"
TOKENIZERS_PARALLELISM: "false"
OMP_NUM_THREADS: "1"
{{- end -}}
