{{/* Labels of pods with a front door; "" where they are not known. */}}
{{- define "triptych.frontdoorSelector" -}}
{{- if ne .Values.ray.mode "external" -}}
{{ include "triptych.selectorLabels" (dict "root" . "component" "frontdoor") }}
{{- else if .Values.ray.external.frontdoorLabels -}}
{{ toYaml .Values.ray.external.frontdoorLabels }}
{{- end -}}
{{- end -}}

{{- define "triptych.frontdoorPorts" -}}
- name: grpc
  port: {{ .Values.ports.grpc }}
  targetPort: {{ .Values.ports.grpc }}
  appProtocol: {{ ternary "https" "kubernetes.io/h2c" .Values.tls.enabled }}
- name: http
  port: {{ .Values.ports.http }}
  targetPort: {{ .Values.ports.http }}
  appProtocol: {{ ternary "https" "http" .Values.tls.enabled }}
{{- end -}}
