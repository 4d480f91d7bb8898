{{/* What the schema cannot say; every message names the value and the fix. */}}
{{- define "triptych.validate" -}}
{{- $values := .Values -}}
{{- $roles := include "triptych.roles" . | fromJson -}}
{{- range $name := list "frontdoor" "prefill" "decode" -}}
{{- if not (hasKey $roles $name) -}}
{{- fail (printf "roles.%s.enabled is false: nothing can be served without it; set it to true" $name) -}}
{{- end -}}
{{- end -}}
{{- range $name, $role := $roles -}}
{{- if lt (int $role.replicas) 1 -}}
{{- fail (printf "roles.%s.replicas is %d: write 1 or more" $name (int $role.replicas)) -}}
{{- end -}}
{{- $min := ternary $role.replicas $role.minReplicas (kindIs "invalid" $role.minReplicas) | int -}}
{{- $max := ternary $role.replicas $role.maxReplicas (kindIs "invalid" $role.maxReplicas) | int -}}
{{- if or (lt (int $role.replicas) $min) (gt (int $role.replicas) $max) -}}
{{- fail (printf "roles.%s.replicas is %d, outside minReplicas %d and maxReplicas %d" $name (int $role.replicas) $min $max) -}}
{{- end -}}
{{- $drain := $role.drain -}}
{{- $needed := add $drain.preStopSeconds $drain.seconds $drain.marginSeconds -}}
{{- if lt (include "triptych.grace" $role | int) (int $needed) -}}
{{- fail (printf "roles.%s.drain.gracePeriodSeconds is %d: preStopSeconds, seconds and marginSeconds are %d together; leave it null, or write that much or more" $name (int $drain.gracePeriodSeconds) (int $needed)) -}}
{{- end -}}
{{- end -}}
{{- if gt (int $roles.frontdoor.replicas) 16 -}}
{{- fail (printf "roles.frontdoor.replicas is %d: write 16 or less" (int $roles.frontdoor.replicas)) -}}
{{- end -}}
{{- if and (ne $values.model.source "bundled") (not $values.model.path) -}}
{{- fail (printf "model.path is empty: with model.source %q it names the model's folder" $values.model.source) -}}
{{- end -}}
{{- if and (eq $values.model.source "claim") (hasPrefix "/" $values.model.path) -}}
{{- fail (printf "model.path is %q: with model.source \"claim\" it is a path inside the volume; leave out the first /" $values.model.path) -}}
{{- end -}}
{{- with $values.model.download -}}
{{- if .enabled -}}
{{- if ne $values.model.source "claim" -}}
{{- fail (printf "model.download.enabled needs model.source \"claim\", not %q: there is no volume to fill" $values.model.source) -}}
{{- end -}}
{{- if or (not .repository) (not .revision) -}}
{{- fail "model.download.enabled needs repository and revision, the commit of the model, so that the same model is fetched tomorrow" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if eq $values.ray.mode "external" -}}
{{- if not $values.ray.external.dashboardAddress -}}
{{- fail "ray.external.dashboardAddress is empty: with ray.mode \"external\" it is where the application is deployed, http://host:8265" -}}
{{- end -}}
{{- if eq $values.model.source "bundled" -}}
{{- fail "model.source is \"bundled\": with ray.mode \"external\" the chart prepares no hosts; use \"path\", a folder that all of them have" -}}
{{- end -}}
{{- range $name := list "ingress" "httpRoute" "grpcRoute" -}}
{{- if and (index $values $name).enabled (not $values.ray.external.frontdoorLabels) -}}
{{- fail (printf "%s.enabled needs ray.external.frontdoorLabels: without them there is no Service to lead to" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $values.ray.gcsFaultTolerance.enabled (eq $values.redis.mode "none") -}}
{{- fail "ray.gcsFaultTolerance.enabled needs redis.mode \"external\" or \"dev\": the head's tables are kept there" -}}
{{- end -}}
{{- if and (eq $values.redis.mode "external") (not $values.redis.external.host) -}}
{{- fail "redis.external.host is empty: redis.mode is \"external\"" -}}
{{- end -}}
{{- if $values.tls.enabled -}}
{{- if eq (empty $values.tls.existingSecret) (not $values.tls.certManager.enabled) -}}
{{- fail "tls.enabled needs one of tls.existingSecret and tls.certManager.enabled" -}}
{{- end -}}
{{- if and $values.tls.certManager.enabled (not $values.tls.certManager.issuerRef) -}}
{{- fail "tls.certManager.issuerRef is empty: name the issuer, e.g. {name: letsencrypt, kind: ClusterIssuer}" -}}
{{- end -}}
{{- end -}}
{{- if and $values.ingress.enabled (not $values.ingress.host) -}}
{{- fail "ingress.host is empty: ingress.enabled is true" -}}
{{- end -}}
{{- range $name := list "httpRoute" "grpcRoute" -}}
{{- if and (index $values $name).enabled (not (index $values $name).parentRefs) -}}
{{- fail (printf "%s.parentRefs is empty: name the Gateway that the route belongs to" $name) -}}
{{- end -}}
{{- end -}}
{{- if and $values.rbac.create (not $values.rbac.subjects) -}}
{{- fail "rbac.subjects is empty: name who may scale, e.g. [{kind: Group, name: serving, apiGroup: rbac.authorization.k8s.io}]" -}}
{{- end -}}
{{- if and (ne $values.gang.scheduler "none") (not $values.gang.queue) -}}
{{- fail (printf "gang.queue is empty: name the queue of gang.scheduler %q" $values.gang.scheduler) -}}
{{- end -}}
{{- $taken := dict -}}
{{- range $name, $port := dict "ports.grpc" $values.ports.grpc "ports.http" $values.ports.http "ports.metrics" $values.ports.metrics -}}
{{- $_ := set $taken $name (list $port $port) -}}
{{- end -}}
{{- range $name := list "kvStores" "peers" "ephemeral" -}}
{{- $_ := set $taken (printf "ports.%s" $name) (list (index $values.ports $name).min (index $values.ports $name).max) -}}
{{- end -}}
{{- range $name, $port := omit $values.ports.ray "workers" -}}
{{- $_ := set $taken (printf "ports.ray.%s" $name) (list $port $port) -}}
{{- end -}}
{{- $_ := set $taken "ports.ray.workers" (list $values.ports.ray.workers.min $values.ports.ray.workers.max) -}}
{{- range $one, $a := $taken -}}
{{- if gt (int (first $a)) (int (last $a)) -}}
{{- fail (printf "%s: min %d is above max %d" $one (int (first $a)) (int (last $a))) -}}
{{- end -}}
{{- range $other, $b := $taken -}}
{{- if and (lt $one $other) (le (int (first $a)) (int (last $b))) (le (int (first $b)) (int (last $a))) -}}
{{- fail (printf "%s and %s overlap; a port has one use" $one $other) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
