#!/usr/bin/python3
"""Sends what tasker did to an OpenTelemetry collector, as traces.

Each task that has come to an end is sent as its spans, to any receiver of OTLP
over HTTP in JSON. At least once: what was sent counts as read when it was
accepted, and spans have the same ids each time. Spans that the receiver refuses
for good are told of and left out, or nothing would ever pass again.

usage: trace_exporter.py [URL]     URL: OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, else http://localhost:4318/v1/traces
                                   where to connect: PGHOST, PGDATABASE, PGUSER, ...

OTEL_EXPORTER_OTLP_HEADERS (name=value,...) goes along with each request.
"""
import email.utils
import http.client
import json
import os
import select
import signal
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import psycopg

CONSUMER = "trace_exporter"
# All that can end a task. Each end is told by itself: after a retry the task is sent again, with what is new.
EVENTS = ["task.completed", "task.failed", "task.cancelled", "task.resolved_manually"]
BATCH = 100       # events that are read, and acknowledged, at once
IDLE = 1          # seconds until we look again when nothing was there
GIVE_UP = 60      # seconds without a database, then a supervisor shall see us fail
LATER = (429, 502, 503, 504)
FIRST_WAIT = 0.5  # seconds until we try again, doubled each time
LONGEST_WAIT = 30


class Refused(Exception):
	"""The receiver will not have it, however often it is tried."""


class Unavailable(Exception):
	"""The receiver will have it later, after so many seconds if it says so."""

	def __init__(self, message, seconds):
		super().__init__(message)
		self.seconds = seconds


class Exporter:
	def __init__(self, url, headers):
		self.url = url
		self.headers = headers
		self.stopping = False
		self.accepted = set()      # events of which the receiver has the spans, but that are not acknowledged
		# A signal writes a byte into this pipe, which ends every wait.
		self.woken, wake = os.pipe()
		os.set_blocking(wake, False)
		signal.set_wakeup_fd(wake)
		signal.signal(signal.SIGTERM, self.stop)
		signal.signal(signal.SIGINT, self.stop)

	def stop(self, *_):
		self.stopping = True

	def wait(self, seconds):
		if not self.stopping:
			select.select([self.woken], [], [], seconds)

	def run(self):
		"""Exports until told to stop, whatever happens to the connection."""
		down_since, pause = None, 0.05
		while not self.stopping:
			try:
				with psycopg.connect(autocommit=True, application_name=CONSUMER) as db:
					# Where it exists already, it goes on where it was.
					db.execute("SELECT tasker.create_event_consumer(%s, %s)", (CONSUMER, EVENTS))
					down_since, pause = None, 0.05
					log("ready, sending to %s", self.url)
					self.serve(db)
			except psycopg.OperationalError as problem:
				log("no connection: %s", str(problem).strip())
				down_since = down_since or time.monotonic()
				if time.monotonic() - down_since > GIVE_UP:
					sys.exit("no database for %d seconds" % GIVE_UP)
				self.wait(pause)
				pause = min(2 * pause, 5)
		log("stopped")

	def serve(self, db):
		"""Exports as long as the connection holds. While the receiver is away no transaction is open, which would hold back vacuum."""
		pause = FIRST_WAIT
		while not self.stopping:
			try:
				if self.export(db) == 0:
					self.wait(IDLE)
				pause = FIRST_WAIT
			except Unavailable as problem:
				log("%s", problem)
				self.wait(min(pause if problem.seconds is None else problem.seconds, LONGEST_WAIT))
				pause = min(2 * pause, LONGEST_WAIT)

	def export(self, db):
		"""Sends the tasks that have ended since the last time. The commit is the acknowledgement, so it comes last."""
		with db.transaction():
			ends = {}
			for task, event in db.execute("SELECT task_id, event_key FROM tasker.read_events(%s, %s)", (CONSUMER, BATCH)):
				ends.setdefault(task, set()).add(event)
			# Task by task: what one request is refused for does not concern the others.
			for task in sorted(ends):
				# In an earlier attempt some were accepted before one was not.
				if not ends[task] <= self.accepted:
					self.send(db, task)
					self.accepted |= ends[task]
		self.accepted.clear()
		return len(ends)

	def send(self, db, task):
		for request, in db.execute("SELECT tasker.otlp_spans(ARRAY[%s]::bigint[])::text", (task,)):
			try:
				self.post(task, request)
			except Refused as problem:
				log("task %d is left out: %s", task, problem)

	def post(self, task, request):
		message = urllib.request.Request(self.url, data=request.encode(), method="POST",
			headers={"Content-Type": "application/json", **self.headers})
		try:
			with urllib.request.urlopen(message, timeout=30) as answer:
				tell_rejected(task, answer.read())
		except urllib.error.HTTPError as answer:
			text = "%d %s" % (answer.code, answer.read(200).decode(errors="replace").strip())
			if answer.code in LATER:
				raise Unavailable("task %d: %s" % (task, text), seconds_of(answer.headers.get("Retry-After"))) from None
			raise Refused(text) from None
		except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as problem:
			raise Unavailable("task %d: no answer: %s" % (task, getattr(problem, "reason", problem)), None) from None


def tell_rejected(task, body):
	"""A receiver may accept a request and still reject some of its spans; trying again would not help."""
	try:
		partial = json.loads(body or b"{}").get("partialSuccess") or {}
	except (ValueError, AttributeError):
		return
	if int(partial.get("rejectedSpans") or 0) > 0:
		log("task %d: %s spans were rejected: %s", task, partial["rejectedSpans"], partial.get("errorMessage"))


def seconds_of(retry_after):
	"""The seconds that Retry-After asks for, as a number or a date; None where it says nothing of use."""
	if retry_after is None:
		return None
	try:
		seconds = float(retry_after) if retry_after.strip().isdigit() else \
			email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
	except (ValueError, TypeError):
		return None
	return max(seconds, 0)


def headers_of(text):
	pairs = (pair.split("=", 1) for pair in text.split(",") if "=" in pair)
	return {name.strip(): urllib.parse.unquote(value.strip()) for name, value in pairs}


def log(text, *values):
	print(time.strftime("%H:%M:%S"), text % values, file=sys.stderr, flush=True)


if __name__ == "__main__":
	if len(sys.argv) > 2 or sys.argv[1:] in (["-h"], ["--help"]):
		sys.exit(__doc__)
	target = sys.argv[1] if len(sys.argv) == 2 else \
		os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://localhost:4318/v1/traces")
	if urllib.parse.urlsplit(target).scheme not in ("http", "https"):
		sys.exit("the URL must begin with http: or https:")
	Exporter(target, headers_of(os.environ.get("OTEL_EXPORTER_OTLP_HEADERS", ""))).run()
