{{- define "foreshock.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "foreshock.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "foreshock.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "foreshock.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "foreshock.extractorName" -}}
{{- printf "%s-extractor" (include "foreshock.fullname" .) -}}
{{- end -}}

{{- define "foreshock.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: foreshock
{{- end -}}

{{- define "foreshock.selector" -}}
app.kubernetes.io/name: {{ include "foreshock.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "foreshock.serviceAccountName" -}}
{{- default (include "foreshock.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "foreshock.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* PodSecurity `restricted`; the group owns the volumes. */}}
{{- define "foreshock.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "foreshock.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "foreshock.secretVolumes" -}}
{{- range .mounts }}
- name: secret-{{ .name }}
  secret: {secretName: {{ .secretName | quote }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{- define "foreshock.secretVolumeMounts" -}}
{{- range .mounts }}
- {name: secret-{{ .name }}, mountPath: /run/secrets/foreshock/{{ .name }}, readOnly: true}
{{- end }}
{{- end -}}

{{/* Those secrets that datasources need. */}}
{{- define "foreshock.extractorMounts" -}}
{{- $found := list -}}
{{- range .Values.secretMounts -}}{{- if .extractor -}}{{- $found = append $found . -}}{{- end -}}{{- end -}}
{{- toYaml $found -}}
{{- end -}}

{{- define "foreshock.sharesModels" -}}
{{- if and (not .Values.models.url) (or (gt (int .Values.replicas) 1) .Values.extractor.enabled) -}}true{{- end -}}
{{- end -}}

{{/* The models lie in a volume, or in a bucket whose login is a mounted secret; without one it is the pod's own. */}}
{{- define "foreshock.modelsVolume" -}}
{{- $secret := .Values.models.credentialsSecret -}}
{{- if .Values.models.url }}
{{- if $secret.name -}}
- name: models
  secret: {secretName: {{ $secret.name | quote }}, defaultMode: 0440}
{{- end }}
{{- else -}}
- name: models
{{- if .Values.models.persistence }}
  persistentVolumeClaim:
    claimName: {{ default (printf "%s-models" (include "foreshock.fullname" .)) .Values.models.existingClaim }}
{{- else }}
  emptyDir: {sizeLimit: {{ .Values.models.size | quote }}}
{{- end }}
{{- end }}
{{- end -}}

{{- define "foreshock.modelsMount" -}}
{{- $models := .root.Values.models -}}
{{- if not $models.url -}}
- {name: models, mountPath: /var/lib/foreshock/models{{ if .readOnly }}, readOnly: true{{ end }}}
{{- else if $models.credentialsSecret.name -}}
- {name: models, mountPath: /run/secrets/foreshock-models, readOnly: true}
{{- end -}}
{{- end -}}

{{/* `artifacts` and `s3` of the settings. */}}
{{- define "foreshock.modelsSettings" -}}
{{- $models := .Values.models -}}
{{- if not $models.url -}}
artifacts: file:///var/lib/foreshock/models
{{- else -}}
{{- $s3 := dict -}}
{{- range $key, $value := $models.s3 -}}{{- if ne (toString $value) "" -}}{{- $_ := set $s3 $key $value -}}{{- end -}}{{- end -}}
{{- with $models.credentialsSecret -}}
{{- if .name -}}
{{- $_ := set $s3 "access_key_id_file" (printf "/run/secrets/foreshock-models/%s" .accessKeyIdKey) -}}
{{- $_ := set $s3 "secret_access_key_file" (printf "/run/secrets/foreshock-models/%s" .secretAccessKeyKey) -}}
{{- end -}}
{{- end -}}
{{- toYaml (dict "artifacts" $models.url "s3" $s3) -}}
{{- end -}}
{{- end -}}

{{/* foreshock.yaml of the operator. */}}
{{- define "foreshock.settings" -}}
{{- $own := merge (dict "listen" "0.0.0.0:8080") (include "foreshock.modelsSettings" . | fromYaml) -}}
{{- if eq .Values.database.kind "postgresql" -}}
{{- $pg := .Values.database.postgresql -}}
{{- $url := printf "postgresql+psycopg://%s@%s:%d/%s?sslmode=%s" $pg.user $pg.host (int $pg.port) $pg.name $pg.sslmode -}}
{{- $_ := set $own "database" $url -}}
{{- $_ := set $own "database_password_file" (printf "/run/secrets/foreshock-database/%s" $pg.passwordSecret.key) -}}
{{- else -}}
{{- $_ := set $own "database" "sqlite:////var/lib/foreshock/state/foreshock.db" -}}
{{- end -}}
{{- if .Values.extractor.enabled -}}
{{- $url := printf "http://%s:8081" (include "foreshock.extractorName" .) -}}
{{- $_ := set $own "extractor" (dict "url" $url "timeout" .Values.extractor.timeout) -}}
{{- end -}}
{{- $nodes := and .Values.changes.nodes (not .Values.watchNamespaces) -}}
{{- $changes := dict "enabled" .Values.changes.enabled "nodes" $nodes "config_maps" .Values.changes.configMaps -}}
{{- $_ := set $own "changes" (merge $changes (default dict .Values.settings.changes)) -}}
{{- toYaml (merge $own .Values.settings) -}}
{{- end -}}

{{/* What the extractor needs of it: no sink, no database. */}}
{{- define "foreshock.extractorSettings" -}}
{{- toYaml (merge (dict "datasources" .Values.settings.datasources) (include "foreshock.modelsSettings" . | fromYaml)) -}}
{{- end -}}

{{/* The ports of the datasources, and with `sinks` of the sinks, of `root`'s settings, as a comma-separated list. */}}
{{- define "foreshock.egressPorts" -}}
{{- $urls := list -}}
{{- range .root.Values.settings.datasources -}}{{- $urls = append $urls .url -}}{{- end -}}
{{- with .root.Values.models -}}{{- if and .url .s3.endpoint -}}{{- $urls = append $urls .s3.endpoint -}}{{- end -}}{{- end -}}
{{- range ternary .root.Values.settings.sinks list .sinks -}}
{{- if .url -}}{{- $urls = append $urls .url -}}{{- end -}}
{{- range .urls -}}{{- $urls = append $urls . -}}{{- end -}}
{{- range splitList "," (default "" .bootstrap_servers) -}}
{{- if . -}}{{- $urls = append $urls (printf "kafka://%s" (trim .)) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- $ports := list -}}
{{- range $urls -}}
{{- if not (contains "${" .) -}}
{{- $parts := urlParse . -}}
{{- $port := regexFind ":[0-9]+$" $parts.host | trimPrefix ":" -}}
{{- if not $port -}}{{- $port = ternary "80" "443" (eq $parts.scheme "http") -}}{{- end -}}
{{- $ports = append $ports $port -}}
{{- end -}}
{{- end -}}
{{- with .root.Values.models -}}
{{- if and .url (not .s3.endpoint) -}}{{- $ports = append $ports "443" -}}{{- end -}}
{{- end -}}
{{- range .root.Values.networkPolicy.extraEgressPorts -}}{{- $ports = append $ports (toString .) -}}{{- end -}}
{{- $ports | uniq | sortAlpha | join "," -}}
{{- end -}}

{{/* What a schema cannot say; each sentence says what to do. */}}
{{- define "foreshock.check" -}}
{{- if not .Values.settings.datasources -}}
{{- fail "Set settings.datasources: at least one {name: default, url: http://…} is needed." -}}
{{- end -}}
{{- if and (gt (int .Values.replicas) 1) (ne .Values.database.kind "postgresql") -}}
{{- fail "Two replicas need PostgreSQL: set database.kind to postgresql, or replicas to 1." -}}
{{- end -}}
{{- if eq .Values.database.kind "postgresql" -}}
{{- if not .Values.database.postgresql.host -}}
{{- fail "Set database.postgresql.host: the address of PostgreSQL." -}}
{{- end -}}
{{- if not .Values.database.postgresql.passwordSecret.name -}}
{{- fail "Set database.postgresql.passwordSecret.name: the Secret that holds the password of PostgreSQL." -}}
{{- end -}}
{{- end -}}
{{- if and (include "foreshock.sharesModels" .) (not .Values.models.persistence) -}}
{{- fail "Two replicas and the extractor share the models: set models.persistence to true, or models.url to a bucket." -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.extraEgressPorts) -}}
{{- range $kind := list "datasources" "sinks" -}}
{{- range $index, $entry := get $.Values.settings $kind -}}
{{- if contains "${" (toString $entry.url) -}}
{{- fail (printf "settings.%s[%d] reads its url from a variable: set networkPolicy.extraEgressPorts to its port, or networkPolicy.enabled to false." $kind $index) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $field := list "database" "database_password_file" "artifacts" "s3" "listen" "extractor" -}}
{{- if hasKey $.Values.settings $field -}}
{{- fail (printf "Remove settings.%s: the chart sets it, from database, models and extractor." $field) -}}
{{- end -}}
{{- end -}}
{{- range $kind := list "datasources" "sinks" -}}
{{- range $index, $entry := get $.Values.settings $kind -}}
{{- $inline := list (get $entry "secret") (get $entry "bearer_token") (get $entry "password") (dig "basic_auth" "password" "" $entry) -}}
{{- range $inline -}}
{{- if and . (not (hasPrefix "${" (toString .))) -}}
{{- fail (printf "settings.%s[%d] holds a secret: a ConfigMap is no place for it. Mount a Secret by secretMounts and name its file, or read a variable by ${NAME}." $kind $index) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
