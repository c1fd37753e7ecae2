{{- define "trait.name" -}}
{{- printf "%s" .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{- define "trait.labels" -}}
app.kubernetes.io/name: trait-steering
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* Selectors: {{ include "trait.selector" (dict "root" $ "component" "replica") }} */}}
{{- define "trait.selector" -}}
app.kubernetes.io/name: trait-steering
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "trait.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "trait.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{- define "trait.vectorsClaim" -}}
{{- .Values.vectors.existingClaim | default (printf "%s-vectors" (include "trait.name" .)) -}}
{{- end }}

{{/* preStop, then running requests, then a margin. */}}
{{- define "trait.gracePeriod" -}}
{{- add .Values.drain.preStopSeconds .Values.drain.requestSeconds 30 -}}
{{- end }}
