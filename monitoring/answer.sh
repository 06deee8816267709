#!/bin/sh
# Answers one scrape on its standard input and output with tasker's metrics, for
# inetd, systemd (Accept=yes) or socat; psql finds the database as always (PGDATABASE, ...).
# docs/monitoring.md says how.
while read -r line && [ "${#line}" -gt 1 ]; do :; done
if text=$(PGCLIENTENCODING=UTF8 psql -XAtq -c 'SELECT tasker.prometheus_metrics()'); then
	printf 'HTTP/1.0 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\r\n%s\n' "$text"
else
	printf 'HTTP/1.0 503 Service Unavailable\r\n\r\n'
fi
