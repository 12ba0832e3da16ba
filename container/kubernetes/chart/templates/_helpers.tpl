{{- define "pylxcfs.fullname" -}}
{{- if contains "pylxcfs" .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-pylxcfs" .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "pylxcfs.selector" -}}
app.kubernetes.io/name: pylxcfs
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "pylxcfs.labels" -}}
{{ include "pylxcfs.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | quote }}
{{- end -}}

{{- define "pylxcfs.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* cert-manager, own or existing */ -}}
{{- define "pylxcfs.certificates" -}}
{{- if ne .Values.certificates.mode "auto" -}}
{{ .Values.certificates.mode }}
{{- else if .Capabilities.APIVersions.Has "cert-manager.io/v1" -}}
cert-manager
{{- else -}}
own
{{- end -}}
{{- end -}}

{{- define "pylxcfs.secret" -}}
{{- if eq (include "pylxcfs.certificates" .) "existing" -}}
{{ required "certificates.existingSecret is missing, for certificates.mode=existing" .Values.certificates.existingSecret }}
{{- else -}}
{{ include "pylxcfs.fullname" . }}-webhook
{{- end -}}
{{- end -}}

{{- define "pylxcfs.volumes" -}}
{{- if and (eq .Values.webhook.volumes "directory") .Values.agent.enabled (not .Values.agent.attachNew) -}}
{{- fail "webhook.volumes=directory needs agent.attachNew=true: the agent brings the files then" -}}
{{- end -}}
{{- if ne .Values.webhook.volumes "auto" -}}
{{ .Values.webhook.volumes }}
{{- else if .Values.nri.enabled -}}
none
{{- else -}}
files
{{- end -}}
{{- end -}}

{{- define "pylxcfs.clientConfig" -}}
clientConfig:
  service:
    name: {{ include "pylxcfs.fullname" .root }}-webhook
    namespace: {{ .root.Release.Namespace | quote }}
    port: 443
    path: {{ .path }}
{{- if eq (include "pylxcfs.certificates" .root) "existing" }}
  caBundle: {{ required "certificates.caBundle is missing, for certificates.mode=existing" .root.Values.certificates.caBundle | b64enc }}
{{- end }}
admissionReviewVersions: [v1]
sideEffects: None
matchPolicy: Equivalent
timeoutSeconds: {{ .root.Values.webhook.timeoutSeconds }}
{{- end -}}

{{- /* The release's own pods must start without the webhook, and pod security would refuse hostPath. */ -}}
{{- define "pylxcfs.notHere" -}}
- key: kubernetes.io/metadata.name
  operator: NotIn
  values: [{{ .Release.Namespace | quote }}, kube-system]
{{- if ne (include "pylxcfs.volumes" .) "none" }}
- key: pod-security.kubernetes.io/enforce
  operator: NotIn
  values: [baseline, restricted]
{{- end }}
{{- end -}}

{{- define "pylxcfs.namespaces" -}}
namespaceSelector:
  {{- with .Values.webhook.namespaceSelector.matchLabels }}
  matchLabels:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  matchExpressions:
    {{- include "pylxcfs.notHere" . | nindent 4 }}
    {{- with .Values.webhook.namespaceSelector.matchExpressions }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{- define "pylxcfs.pods" -}}
namespaceSelector:
  matchExpressions:
    {{- include "pylxcfs.notHere" . | nindent 4 }}
{{- if eq .Values.webhook.podSelection "label" }}
objectSelector:
  matchExpressions:
    - {key: pylxcfs.io/view, operator: Exists}
failurePolicy: {{ .Values.webhook.failurePolicy }}
{{- else }}
failurePolicy: Ignore
{{- end }}
{{- end -}}

{{- define "pylxcfs.injectFrom" -}}
{{- if eq (include "pylxcfs.certificates" .) "cert-manager" }}
  annotations:
    cert-manager.io/inject-ca-from: {{ .Release.Namespace }}/{{ include "pylxcfs.fullname" . }}-webhook
{{- end }}
{{- end -}}

{{- /* Whether the agents read labels of namespaces: true or false */ -}}
{{- define "pylxcfs.readsNamespaces" -}}
{{- and .Values.agent.enabled .Values.nri.enabled .Values.nri.namespaceLabels (not .Values.nri.all) (not .Values.remove) -}}
{{- end -}}

{{- /* webhook.namespaceSelector as the API server takes it in a request */ -}}
{{- define "pylxcfs.namespaceSelector" -}}
{{- $words := list (printf "kubernetes.io/metadata.name notin (%s,kube-system)" .Release.Namespace) -}}
{{- range $key, $value := .Values.webhook.namespaceSelector.matchLabels -}}
{{- if not (kindIs "invalid" $value) -}}
{{- $words = append $words (printf "%s=%s" $key $value) -}}
{{- end -}}
{{- end -}}
{{- range .Values.webhook.namespaceSelector.matchExpressions -}}
{{- if eq .operator "Exists" -}}
{{- $words = append $words .key -}}
{{- else if eq .operator "DoesNotExist" -}}
{{- $words = append $words (printf "!%s" .key) -}}
{{- else -}}
{{- $words = append $words (printf "%s %s (%s)" .key (lower .operator) (join "," .values)) -}}
{{- end -}}
{{- end -}}
{{- join "," $words -}}
{{- end -}}
