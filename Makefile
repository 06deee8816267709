# Builds with PGXS: make, make install, make installcheck.
EXTENSION = tasker tasker_testing
EXTVERSION = $(shell sed -n "s/^default_version = '\(.*\)'/\1/p" tasker.control)
MODULE_big = tasker
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c src/*/*.c))) $(patsubst %.cpp,%.o,$(sort $(wildcard src/*/*.cpp)))

# The install script: these files in this order, each object after what it uses.
INSTALL_SQL = \
	src/tasker.sql \
	src/rules/state.sql src/rules/retry.sql src/rules/violation.sql src/rules/graph.sql src/rules/drawing.sql src/rules/yaml_document.sql \
	src/pg/clock.sql src/pg/measure.sql \
	src/define/ownership.sql src/define/template.sql src/define/access.sql src/define/context_schema.sql src/define/template_graph.sql src/define/event.sql src/define/registry.sql src/define/object_map.sql \
	src/run/task.sql src/run/step.sql src/run/step_wait.sql src/run/annotation.sql src/run/update.sql src/run/transition.sql src/run/timer.sql src/run/log_mark.sql src/run/published_event.sql src/run/consumer.sql src/run/schedule.sql src/run/task_trigger.sql src/run/reenqueue.sql src/run/history.sql src/run/retention.sql \
	src/execute/queue.sql src/execute/executor.sql src/execute/claim.sql src/execute/outcome.sql src/execute/sql_handler.sql src/execute/pause.sql src/execute/await.sql \
	src/orchestrate/orchestrate.sql src/orchestrate/reaction.sql src/orchestrate/coordinate.sql src/orchestrate/finalize.sql \
	src/run/history_status.sql src/run/task_edges.sql src/run/readiness.sql src/run/summary.sql src/run/analytics.sql src/run/health.sql \
	src/run/dependency.sql src/run/diagram.sql src/run/graph_analysis.sql src/run/search.sql src/run/task_document.sql src/run/event_view.sql src/run/event_wait.sql src/run/trace.sql src/orchestrate/decision.sql \
	src/process/worker.sql src/process/horizon.sql src/execute/executor_status.sql src/process/why.sql src/process/metrics.sql src/orchestrate/check.sql \
	src/execute/grant.sql src/execute/isolation.sql src/pg/dump.sql src/pg/privileges.sql

# The same for the test kit.
TESTING_SQL = \
	testing/tasker_testing.sql \
	testing/workflow.sql testing/handler.sql testing/clock.sql testing/coordinator.sql testing/idempotency.sql \
	testing/assertion.sql testing/privileges.sql

DATA_built = tasker--$(EXTVERSION).sql tasker_testing--$(EXTVERSION).sql
# Earlier versions as they were released, and the ways from one to the next.
DATA = $(sort $(wildcard upgrade/*.sql))
EXTRA_CLEAN = $(DATA_built) tmp_check tmp_check_iso log

# Regression tests in the order of the README's chapters; prepare comes first.
REGRESS = $(shell sed -e 's/\#.*//' sql/schedule)
REGRESS_OPTS = --encoding=UTF8 --no-locale
ISOLATION = $(patsubst test/isolation/specs/%.spec,%,$(sort $(wildcard test/isolation/specs/*.spec)))
ISOLATION_OPTS = --encoding=UTF8 --no-locale --inputdir=test/isolation --load-extension=tasker
TAP_TESTS = 1
PROVE_TESTS = $(sort $(wildcard test/t/*.pl))

PG_CPPFLAGS = -Isrc
# Where the headers of valijson are, if not in the system's folder.
VALIJSON ?=
PG_CXXFLAGS = -std=gnu++17 -fvisibility=hidden -fvisibility-inlines-hidden -Wextra -Wno-unused-parameter $(addprefix -isystem ,$(VALIJSON)) $(if $(WERROR),-Werror)
PG_CFLAGS = -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers $(if $(WERROR),-Werror)
# With FAULT_POINTS=1 a test can strike at named places, see src/pg/fault.h; never for a release.
ifdef FAULT_POINTS
PG_CPPFLAGS += -DTASKER_FAULT_POINTS
endif
SHLIB_LINK = -lyaml -lpcre2-8 -lstdc++

# The library of libFuzzer, to build what fuzzes the rules (./run fuzz --rules):
# its own counters must be found before those of a sanitizer that is preloaded.
FUZZER ?=
OBJS += $(if $(FUZZER),test/fuzz/rules.o)
SHLIB_LINK += $(if $(FUZZER),$(FUZZER) -Wl$(comma)-Bsymbolic)
comma = ,

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# PGXS forgets them where the server was built with LLVM.
BITCODE_CXXFLAGS += $(filter-out -Werror,$(PG_CXXFLAGS))

$(OBJS): $(wildcard src/*.h src/*/*.h)

tasker--$(EXTVERSION).sql: $(INSTALL_SQL) tasker.control
	cat $(INSTALL_SQL) > $@

tasker_testing--$(EXTVERSION).sql: $(TESTING_SQL) tasker_testing.control
	cat $(TESTING_SQL) > $@

dist:
	git archive --format=zip --prefix=tasker-$(EXTVERSION)/ -o tasker-$(EXTVERSION).zip HEAD
.PHONY: dist
