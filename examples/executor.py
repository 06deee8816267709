#!/usr/bin/python3
"""An external executor of tasker: a program that runs steps.

Everything it needs is LISTEN and SQL, so the same can be written in any
language that has a PostgreSQL driver. To make it yours, replace the handlers.

usage: executor.py NAME        where to connect: PGHOST, PGDATABASE, PGUSER, ...
"""
import json
import os
import select
import signal
import sys
import time

import psycopg
from psycopg.rows import dict_row

CAPACITY = 8      # steps that the server pushes to us before we finish one
GIVE_UP = 60      # seconds without a server, then a supervisor shall see us fail
STALE = "TK001"   # SQLSTATE: the step was given to another, cancelled or settled


# ---------- handlers: what the steps do ----------
#
# A handler gets a step (its task's context in "inputs", the results of its
# parents in "dependency_results", the attempt) and returns the step's results
# and the SQL statements that shall commit together with them. It runs outside
# of any transaction: a slow call to another system holds back neither vacuum
# nor notifications, which PostgreSQL delivers between transactions only.
# Raising an exception fails the attempt; tasker decides when the next is due.
# step["traceparent"] is the header of W3C Trace Context to send along with calls:
# what those do then appears in the task's trace, below this very attempt.

class Permanent(Exception):
	"""A failure that no retry can help."""


class RetryLater(Exception):
	"""A failure that a retry may help, so many seconds from now and not before."""

	def __init__(self, message, seconds):
		super().__init__(message)
		self.seconds = seconds


def validate_order(step):
	work(step)
	order = step["inputs"]
	if order["quantity"] < 1:
		raise Permanent("nothing was ordered")
	return {"total": order["quantity"] * order["price"]}, []


def charge_payment(step):
	work(step)
	order = step["inputs"]
	if step["attempt"] <= order.get("gateway_timeouts", 0):
		raise TimeoutError("the payment gateway did not answer")
	total = step["dependency_results"]["validate_order"]["total"]
	return {"charged": total}, [
		("INSERT INTO shop.payments (order_no, amount) VALUES (%s, %s)", (order["order_no"], total))]


def reserve_stock(step):
	work(step)
	return {"shelf": "A%d" % (step["inputs"]["order_no"] % 7)}, []


def ship_order(step):
	work(step)
	order, parents = step["inputs"], step["dependency_results"]
	parcel = "P-%d-%s" % (order["order_no"], parents["reserve_stock"]["shelf"])
	return {"parcel": parcel}, [
		("INSERT INTO shop.shipments (order_no, parcel) VALUES (%s, %s)", (order["order_no"], parcel))]


def send_confirmation(step):
	work(step)
	return {"mailed_to": step["inputs"]["mail"]}, []


def work(step):
	"""Stands for a call to another system."""
	time.sleep(step["handler_config"]["seconds"])


# By the handler_class of the template.
HANDLERS = {
	"shop.ValidateOrder": validate_order,
	"shop.ChargePayment": charge_payment,
	"shop.ReserveStock": reserve_stock,
	"shop.ShipOrder": ship_order,
	"shop.SendConfirmation": send_confirmation,
}


# ---------- the executor ----------

class Executor:
	def __init__(self, name, handlers=HANDLERS):
		self.name = name
		self.handlers = handlers
		self.stopping = False
		# A signal writes a byte into this pipe, which ends the wait in receive.
		self.woken, wake = os.pipe()
		os.set_blocking(wake, False)
		signal.set_wakeup_fd(wake)
		signal.signal(signal.SIGTERM, self.stop)
		signal.signal(signal.SIGINT, self.stop)

	def stop(self, *_):
		self.stopping = True

	def run(self):
		"""Runs steps until told to stop, whatever happens to the connection."""
		down_since, pause = None, 0.05
		while not self.stopping:
			try:
				with psycopg.connect(autocommit=True, row_factory=dict_row, application_name=self.name) as self.db:
					self.register()
					down_since, pause = None, 0.05
					self.serve()
			except psycopg.OperationalError as problem:
				# Our session is gone, and the server has given our steps to others.
				log("no connection: %s", str(problem).strip())
				down_since = down_since or time.monotonic()
				if time.monotonic() - down_since > GIVE_UP:
					sys.exit("no server for %d seconds" % GIVE_UP)
				select.select([self.woken], [], [], pause)
				pause = min(2 * pause, 5)

	def register(self):
		"""Says what we can run. Session-bound: should we die, our steps go to others at once."""
		self.steps = {}
		self.told = False
		self.db.add_notify_handler(lambda message: self.hear())
		# One transaction: as soon as others can see us, we are listening.
		with self.db.transaction():
			me = self.db.execute("SELECT * FROM tasker.register_executor(%s, %s, %s)",
				(self.name, list(self.handlers), CAPACITY)).fetchone()
			self.db.execute('LISTEN "%s"' % me["channel"])
		self.id = me["executor_id"]
		self.fetch()
		log("ready as executor %d", self.id)

	def serve(self):
		while not self.stopping:
			self.receive()
			while self.steps and not self.stopping:
				self.run_step(self.steps.pop(next(iter(self.steps))))
		self.leave()

	def leave(self):
		"""Gives back what we have not begun, so that the attempts do not count, and is gone.

		What is claimed for us meanwhile goes back in the same way.
		"""
		self.steps.clear()
		self.db.execute("SELECT tasker.unregister_executor(%s, release => true)", (self.id,))
		log("stopped; what was not finished is given back")

	def receive(self):
		"""Waits until there is a step to run or we are to stop. Costs the server nothing."""
		self.read_messages()
		while not self.steps and not self.stopping:
			select.select([self.db, self.woken], [], [])
			self.read_messages()

	def read_messages(self):
		self.db.pgconn.consume_input()
		while self.db.pgconn.notifies():
			self.hear()
		while self.told:
			self.fetch()

	def hear(self):
		"""Notes that there is news. What a message says is a hint, and whoever knew our channel could have sent it."""
		self.told = True

	def fetch(self):
		"""Asks for the steps that are ours: messages are hints, claims are durable."""
		self.told = False
		for step in self.db.execute(
				"SELECT s.*, tasker.step_traceparent(s.workflow_step_id, s.claim) AS traceparent FROM tasker.my_steps(%s) s", (self.id,)):
			self.steps[step["workflow_step_id"], step["claim"]] = step

	def run_step(self, step):
		what = "%s of task %d, attempt %d" % (step["step_name"], step["task_id"], step["attempt"])
		try:
			try:
				self.complete(step, *self.handlers[step["handler"]](step))
				log("%s: done", what)
			except Exception as problem:
				if self.db.closed or is_stale(problem):
					raise
				self.fail(step, problem)
				log("%s: failed: %r", what, problem)
		except psycopg.Error as problem:
			if self.db.closed or not is_stale(problem):
				raise
			# The step is no longer ours, and what we wrote for it is rolled back.
			log("%s: too late: %s", what, str(problem).strip())

	def complete(self, step, results, statements):
		"""The step's completion and its business rows are one transaction: both or neither."""
		with self.db.transaction():
			first = self.db.execute("SELECT tasker.complete_step(%s, %s, %s, %s) AS first",
				(step["workflow_step_id"], step["claim"], json.dumps(results), self.id)).fetchone()["first"]
			# False: this claim was completed before, and its rows are there.
			for statement, values in statements if first else []:
				self.db.execute(statement, values)

	def fail(self, step, problem):
		self.db.execute("SELECT tasker.fail_step(%s, %s, %s, %s, %s, %s, executor_id => %s)",
			(step["workflow_step_id"], step["claim"], str(problem), getattr(problem, "code", type(problem).__name__),
			not isinstance(problem, Permanent), getattr(problem, "seconds", None), self.id))


def is_stale(problem):
	return isinstance(problem, psycopg.Error) and problem.sqlstate == STALE


def log(text, *values):
	print(time.strftime("%H:%M:%S"), text % values, file=sys.stderr, flush=True)


if __name__ == "__main__":
	if len(sys.argv) != 2:
		sys.exit(__doc__)
	Executor(sys.argv[1]).run()
