{{- /* The values, of which those of the agent may stand at the top, too. */}}
{{- define "cni.values" -}}
{{- mergeOverwrite (deepCopy .Values.cni) (omit .Values "global" "cni" "revision") | toYaml }}
{{- end }}

{{- /* What says to which part and release an object belongs. */}}
{{- define "cni.labels" -}}
k8s-app: istio-cni-node
operator.istio.io/component: Cni
istio.io/rev: default
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/name: istio-cni
app.kubernetes.io/part-of: istio
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- /* What is done about pods that have started without their capture. */}}
{{- define "cni.repair" -}}
{{- if not .enabled }}off
{{- else if .repairPods }}repair
{{- else if .deletePods }}delete
{{- else if .labelPods }}label
{{- else }}off
{{- end }}
{{- end }}

{{- /* A text, a number or a flag as a text. Numbers of files are fractions for Helm, and large ones would get an exponent. */}}
{{- define "cni.word" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}{{ else }}{{ toString . }}{{ end }}
{{- end }}

{{- /* A map of texts. */}}
{{- define "cni.words" -}}
{{- range $name, $value := . }}
{{ $name }}: {{ include "cni.word" $value | quote }}
{{- end }}
{{- end }}
