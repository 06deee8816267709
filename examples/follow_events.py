#!/usr/bin/python3
"""Follows the events of tasker and prints each as a line, from where it was;
a new consumer from the beginning.

The notifications of a channel say that there is news; what the news is comes
from read_events(), which remembers how far this consumer has read. So nothing
is missed, whoever is killed, and nothing is polled. Replace handle().

usage: follow_events.py CONSUMER [--into TABLE] [PATTERN...]

PATTERN     names of events, * for any characters: 'task.*' '*.failed'
--into      also inserts each event into the first column of this table, a
            jsonb, in the transaction that reads it: exactly once
where to connect: PGHOST, PGDATABASE, PGUSER, ...
"""
import argparse
import json
import os
import select
import signal
import sys
import time

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

AT_ONCE = 100       # events of one transaction
GIVE_UP = 60        # seconds without a server, then a supervisor shall see us fail
LOOK_AGAIN = 60     # seconds without news, in case a notification was lost


def handle(db, event, table=None):
	"""Does something with an event, inside of the transaction that reads it.

	The commit is the acknowledgement. What is written to this database is done
	exactly once for each event; what leaves it, as this line does, at least
	once: if we are killed before the commit, the event comes again with the
	same event_key.
	"""
	said = {key: value for key, value in event["payload"].items() if value is not None}
	print(event["occurred_at"].isoformat(), event["name"], event["event_key"], json.dumps(said, ensure_ascii=False), flush=True)
	if table is not None:
		db.execute(sql.SQL("INSERT INTO {} VALUES (%s)").format(table), (json.dumps(event["payload"]),))


class Follower:
	def __init__(self, consumer, patterns, table=None):
		self.consumer = consumer
		self.channel = consumer + " news"
		self.patterns = patterns
		self.table = table and sql.Identifier(*table.split("."))
		self.stopping = False
		# A signal writes a byte into this pipe, which ends the wait for news.
		self.woken, wake = os.pipe()
		os.set_blocking(wake, False)
		signal.set_wakeup_fd(wake)
		signal.signal(signal.SIGTERM, self.stop)
		signal.signal(signal.SIGINT, self.stop)

	def stop(self, *_):
		self.stopping = True

	def run(self):
		"""Follows until told to stop, whatever happens to the connection."""
		down_since, pause = None, 0.05
		while not self.stopping:
			try:
				with psycopg.connect(autocommit=True, row_factory=dict_row, application_name=self.consumer) as self.db:
					self.begin()
					down_since, pause = None, 0.05
					self.follow()
			except psycopg.OperationalError as problem:
				print("no connection: %s" % str(problem).strip(), file=sys.stderr, flush=True)
				down_since = down_since or time.monotonic()
				if time.monotonic() - down_since > GIVE_UP:
					sys.exit("no server for %d seconds" % GIVE_UP)
				select.select([self.woken], [], [], pause)
				pause = min(2 * pause, 5)

	def begin(self):
		"""Makes the consumer and its channel where they are not there yet, and listens."""
		self.told = False
		self.db.add_notify_handler(lambda message: self.hear())
		self.db.execute("SELECT tasker.create_event_consumer(%s, %s, from_beginning => true)", (self.consumer, self.patterns))
		self.db.execute("SELECT tasker.subscribe(%s, %s)", (self.patterns, self.channel))
		self.db.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self.channel)))

	def hear(self):
		self.told = True

	def follow(self):
		"""Listens first and reads then: what happens in between is read, or heard of."""
		while not self.stopping:
			self.told = False
			while self.read() > 0 and not self.stopping:
				pass
			self.wait()

	def read(self):
		with self.db.transaction():
			events = self.db.execute("SELECT * FROM tasker.read_events(%s, %s)", (self.consumer, AT_ONCE)).fetchall()
			for event in events:
				handle(self.db, event, self.table)
		return len(events)

	def wait(self):
		"""Waits for news. Costs the server nothing."""
		until = time.monotonic() + LOOK_AGAIN
		while not self.told and not self.stopping and time.monotonic() < until:
			select.select([self.db, self.woken], [], [], until - time.monotonic())
			self.db.pgconn.consume_input()
			while self.db.pgconn.notifies():
				self.hear()


if __name__ == "__main__":
	parser = argparse.ArgumentParser(usage=__doc__)
	parser.add_argument("consumer")
	parser.add_argument("--into")
	parser.add_argument("patterns", nargs="*", default=["*"])
	arguments = parser.parse_args()
	Follower(arguments.consumer, arguments.patterns, arguments.into).run()
