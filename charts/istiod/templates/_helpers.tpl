{{- /* What says to which part and release an object belongs. */}}
{{- define "istiod.labels" -}}
operator.istio.io/component: Pilot
istio.io/rev: default
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/name: istiod
app.kubernetes.io/part-of: istio
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "istiod.selector" -}}
app: istiod
istio: pilot
{{- end }}

{{- /* A text, a number or a flag as a text. Numbers of files are fractions for Helm, and large ones would get an exponent. */}}
{{- define "istiod.word" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}{{ else }}{{ toString . }}{{ end }}
{{- end }}

{{- /* A map of texts. */}}
{{- define "istiod.words" -}}
{{- range $name, $value := . }}
{{ $name }}: {{ include "istiod.word" $value | quote }}
{{- end }}
{{- end }}
