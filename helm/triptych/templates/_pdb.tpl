{{/* PodDisruptionBudget of a role that has more than one pod. */}}
{{- define "triptych.pdb" -}}
{{- $role := include "triptych.role" (dict "root" .root "role" .component) | fromJson -}}
{{- if and $role.enabled $role.pdb.enabled (gt (int $role.replicas) 1) (ne .root.Values.ray.mode "external") -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {{- include "triptych.metadata" (merge (dict "suffix" .component) .) | nindent 2 }}
spec:
  maxUnavailable: {{ $role.pdb.maxUnavailable }}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels: {{- include "triptych.selectorLabels" . | nindent 6 }}
{{- end -}}
{{- end -}}
