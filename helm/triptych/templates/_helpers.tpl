{{/* Names, labels and images. */}}

{{- define "triptych.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* KubeRay adds its own endings, and the name is Triptych's `cluster.name`: 40 characters. */}}
{{- define "triptych.fullname" -}}
{{- $name := include "triptych.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What never changes in the life of a release: for selectors. Takes root and component. */}}
{{- define "triptych.selectorLabels" -}}
app.kubernetes.io/name: {{ include "triptych.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Every pod of the release. */}}
{{- define "triptych.releaseLabels" -}}
app.kubernetes.io/name: {{ include "triptych.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "triptych.labels" -}}
{{- with .root.Values.commonLabels }}
{{- toYaml . }}
{{ end -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "triptych.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | replace "+" "_" | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: triptych
{{- end -}}

{{/* metadata of an object: root, component, and the ending of its name ("" for none). */}}
{{- define "triptych.metadata" -}}
name: {{ include "triptych.fullname" .root }}{{ with .suffix }}-{{ . }}{{ end }}
namespace: {{ .root.Release.Namespace }}
labels: {{- include "triptych.labels" . | nindent 2 }}
{{- with merge (dict) (default (dict) .annotations) .root.Values.commonAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "triptych.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "triptych.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "triptych.image" -}}
{{- $registry := .Values.global.imageRegistry | default .Values.image.registry -}}
{{- with $registry }}{{ . }}/{{ end -}}
{{ .Values.image.repository }}
{{- if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end -}}
{{- end -}}

{{/* Name of the RayService or RayCluster. */}}
{{- define "triptych.rayResource" -}}
{{- ternary "rayclusters" "rayservices" (eq .Values.ray.mode "cluster") -}}
{{- end -}}

{{/* A Job's or a test's pod: the same image, account, environment and security; no Ray. Takes root, component, name. */}}
{{- define "triptych.jobPod" -}}
{{- $context := dict "root" .root "component" .component "pod" (dict "env" (default (dict) .plain) "podSecurityContext" (dict) "securityContext" (dict) "hostNetwork" true) -}}
metadata:
  labels: {{- include "triptych.labels" . | nindent 4 }}
spec:
  serviceAccountName: {{ include "triptych.serviceAccountName" .root }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  restartPolicy: {{ .restartPolicy }}
  securityContext: {{- include "triptych.podSecurityContext" $context | nindent 4 }}
  {{- with .root.Values.global.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: {{ .component }}
      image: {{ include "triptych.image" .root }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      command: {{- toYaml .command | nindent 8 }}
      env: {{- include "triptych.env" $context | nindent 8 }}
        {{- with .env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      securityContext: {{- include "triptych.securityContext" $context | nindent 8 }}
      resources: {{- toYaml .resources | nindent 8 }}
      volumeMounts:
        - {name: state, mountPath: /var/lib/triptych}
        - {name: tmp, mountPath: /tmp}
        {{- with .mounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - {name: state, emptyDir: {sizeLimit: 1Gi}}
    - {name: tmp, emptyDir: {sizeLimit: 1Gi}}
    {{- with .volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
