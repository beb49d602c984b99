{{- define "gateway.name" -}}
{{ .Values.name | default .Release.Name }}
{{- end }}

{{- define "gateway.account" -}}
{{ .Values.serviceAccount.name | default (include "gateway.name" .) }}
{{- end }}

{{- /* The labels by which Gateways and its own Service select it. */}}
{{- define "gateway.selector" -}}
app: {{ .Values.labels.app | default (include "gateway.name" .) | quote }}
istio: {{ .Values.labels.istio | default (include "gateway.name" . | trimPrefix "istio-") | quote }}
{{- end }}

{{- /* What says to which part and release an object belongs. */}}
{{- define "gateway.labels" -}}
{{ include "gateway.selector" . }}
operator.istio.io/component: IngressGateways
istio.io/rev: default
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/name: {{ include "gateway.name" . }}
app.kubernetes.io/part-of: istio
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- include "gateway.words" (omit .Values.labels "app" "istio") }}
{{- end }}

{{- /* A text, a number or a flag as a text. Numbers of files are fractions for Helm, and large ones would get an exponent. */}}
{{- define "gateway.word" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}{{ else }}{{ toString . }}{{ end }}
{{- end }}

{{- /* A map of texts. */}}
{{- define "gateway.words" -}}
{{- range $name, $value := . }}
{{ $name }}: {{ include "gateway.word" $value | quote }}
{{- end }}
{{- end }}
