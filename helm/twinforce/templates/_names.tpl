{{- define "twinforce.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end -}}

{{- define "twinforce.labels" -}}
{{ include "twinforce.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- /* Arguments: the context, and the end of the name. */ -}}
{{- define "twinforce.metadata" -}}
{{- $suffix := index . 1 -}}
{{- with index . 0 -}}
name: {{ .Release.Name }}{{ $suffix }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "twinforce.labels" . | nindent 2 }}
{{- end -}}
{{- end -}}

{{- /* The pod of `helm test` needs what the service asks callers for. */ -}}
{{- define "twinforce.hasTest" -}}
{{- $v := .Values -}}
{{- $hasKey := or (not (include "twinforce.hasKeys" .)) $v.test.keySecretName -}}
{{- $hasCertificate := or (not $v.tls.clientCa) $v.test.tlsSecretName -}}
{{- if and $v.test.enabled $hasKey $hasCertificate }}true{{ end -}}
{{- end -}}

{{- define "twinforce.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- /* Callers need a key, or a token. */ -}}
{{- define "twinforce.hasKeys" -}}
{{- if or .Values.keys.secretName .Values.settings.oidc_issuer }}true{{ end -}}
{{- end -}}

{{- define "twinforce.hasTls" -}}
{{- if or .Values.tls.secretName .Values.tls.issuerRef }}true{{ end -}}
{{- end -}}

{{- define "twinforce.tlsSecretName" -}}
{{ .Values.tls.secretName | default (printf "%s-tls" .Release.Name) }}
{{- end -}}

{{- /* Secret with the authority that the pod of `helm test` trusts; empty for those of the image. */ -}}
{{- define "twinforce.testCaSecretName" -}}
{{- if .Values.test.caSecretName -}}
{{ .Values.test.caSecretName }}
{{- else if .Values.tls.issuerRef -}}
{{ include "twinforce.tlsSecretName" . }}
{{- end -}}
{{- end -}}

{{- /* Seconds to stop: before the signal, --drain-timeout, the last replies and the end (10), a margin (5). */ -}}
{{- define "twinforce.graceSeconds" -}}
{{ add .Values.preStopSeconds (ceil .Values.settings.drain_timeout | int64) 10 5 }}
{{- end -}}

{{- define "twinforce.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- /* The user of the image, whose group owns the volumes. OnRootMismatch keeps Kubernetes from making
existing folders writable by the group: the service does not use a folder of compiled models that others
may write to. */ -}}
{{- define "twinforce.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "twinforce.ephemeral" -}}
emptyDir:
  sizeLimit: {{ .Values.ephemeralSize }}
{{- end -}}

{{- define "twinforce.selectorOfMetrics" -}}
namespace={{ .Release.Namespace | quote }}, job={{ .Release.Name | quote }}
{{- end -}}
