-- A workflow of two steps whose handlers are SQL functions, and one run of it.
CREATE OR REPLACE FUNCTION public.greet(step tasker.claimed_step) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('text', concat_ws(' ', 'Hello', step.inputs ->> 'name')) $$;
CREATE OR REPLACE FUNCTION public.shout(step tasker.claimed_step) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('text', upper(step.dependency_results -> 'greet' ->> 'text')) $$;

SELECT tasker.register_task_template('{
	"name": "greeting", "version": "1.0.0", "step_templates": [
		{"name": "greet", "handler_class": "public.greet"},
		{"name": "shout", "handler_class": "public.shout", "depends_on_step": "greet"}]}');
SELECT tasker.create_task('greeting', '{"name": "world"}') AS task \gset
SELECT * FROM tasker.coordinate_task(:task);
