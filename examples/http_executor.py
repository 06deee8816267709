#!/usr/bin/python3
"""An executor whose steps are calls of HTTP interfaces: no code, only configuration.

A step says in its template what to call:

    {"name": "charge", "handler_class": "http", "handler_config": {
        "url": "https://payments.example/orders/{order_no}/charge", "method": "POST",
        "headers": {"Accept": "application/json"}, "params": {"currency": "EUR"}, "timeout": 10}}

{...} in the url stands for a value of the step's inputs; params go into the
query. A request with a body sends the inputs and the results of the parents.
The answer is the step's result. 2xx is a success; 400, 401, 403, 404 and 422
fail for good; 429 and 503 are tried again when the server says so (Retry-After,
seconds or a date), any other answer and no answer by the step's own backoff.
The header traceparent makes what the server does part of the task's trace.

usage: http_executor.py NAME [HANDLER...]    HANDLER: handler_class of such steps, "http" if none is named
"""
import email.utils
import http.client
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

from executor import Executor, Permanent, RetryLater

FOR_GOOD = (400, 401, 403, 404, 422)
LATER = (429, 503)
LONGEST_WAIT = 300          # seconds that we wait at most because a server asks for it
WITH_BODY = ("POST", "PUT", "PATCH")


class NoRetry(Permanent):
	def __init__(self, message, code):
		super().__init__(message)
		self.code = code


class Unsuccessful(Exception):
	def __init__(self, message, code):
		super().__init__(message)
		self.code = code


def call(step):
	"""The handler: makes the request of a step."""
	config = step["handler_config"]
	request = make_request(step, config)
	try:
		with urllib.request.urlopen(request, timeout=config.get("timeout", 30)) as answer:
			return read_answer(answer), []
	except urllib.error.HTTPError as answer:
		raise failure_of(answer) from None
	except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as problem:
		raise Unsuccessful("no answer from %s: %s" % (request.full_url, getattr(problem, "reason", problem)), "no_answer") from None


def make_request(step, config):
	try:
		values = {name: urllib.parse.quote(str(value), safe="") for name, value in step["inputs"].items()}
		url = config["url"].format(**values)
	except KeyError as missing:
		raise NoRetry("the url needs %s, which neither the configuration nor the inputs have" % missing, "bad_configuration") from None
	if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
		raise NoRetry("the url must begin with http: or https:", "bad_configuration")
	if config.get("params"):
		url += ("&" if "?" in url else "?") + urllib.parse.urlencode(config["params"])
	method = config.get("method", "GET").upper()
	headers = {"Content-Type": "application/json", "Accept": "application/json", **config.get("headers", {})}
	# The same for each attempt: a server that knows it does not do the work twice.
	headers.setdefault("Idempotency-Key", "step-%d" % step["workflow_step_id"])
	headers.setdefault("traceparent", step["traceparent"])
	body = None
	if method in WITH_BODY:
		body = json.dumps({"inputs": step["inputs"], "dependency_results": step["dependency_results"]}).encode()
	return urllib.request.Request(url, data=body, headers=headers, method=method)


def read_answer(answer):
	text = answer.read().decode("utf-8", "replace")
	try:
		body = json.loads(text)
	except ValueError:
		body = text
	return {"status": answer.status, "body": body}


def failure_of(answer):
	message = "HTTP %d %s: %s" % (answer.code, answer.reason, answer.read(1000).decode("utf-8", "replace"))
	code = "HTTP_%d" % answer.code
	if answer.code in FOR_GOOD:
		return NoRetry(message, code)
	wait = seconds_to_wait(answer.headers.get("Retry-After")) if answer.code in LATER else None
	failure = Unsuccessful(message, code) if wait is None else RetryLater(message, wait)
	failure.code = code
	return failure


def seconds_to_wait(retry_after):
	"""What a Retry-After header asks for, seconds or a date; None where it says nothing."""
	if not retry_after:
		return None
	try:
		seconds = int(retry_after)
	except ValueError:
		try:
			seconds = round(email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
		except ValueError:
			return None
	return min(max(seconds, 0), LONGEST_WAIT)


if __name__ == "__main__":
	if len(sys.argv) < 2:
		sys.exit(__doc__)
	Executor(sys.argv[1], {handler: call for handler in sys.argv[2:] or ["http"]}).run()
