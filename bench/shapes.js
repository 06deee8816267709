// The workflows that the workloads run, as plain data: each shape is a list of
// steps in topological order, with the names of the steps they depend on. The
// steps do nothing and none fails: a workload measures the engine.

// The five shapes of the original's tests, without their failures.
export const shapes = {
	linear: [
		{ name: 'initialize_data', after: [] },
		{ name: 'validate_input', after: ['initialize_data'] },
		{ name: 'process_data', after: ['validate_input'] },
		{ name: 'transform_results', after: ['process_data'] },
		{ name: 'validate_output', after: ['transform_results'] },
		{ name: 'finalize_workflow', after: ['validate_output'] },
	],
	diamond: [
		{ name: 'start_workflow', after: [] },
		{ name: 'branch_one_process', after: ['start_workflow'] },
		{ name: 'branch_two_process', after: ['start_workflow'] },
		{ name: 'branch_one_validate', after: ['branch_one_process'] },
		{ name: 'branch_two_validate', after: ['branch_two_process'] },
		{ name: 'merge_branches', after: ['branch_one_validate', 'branch_two_validate'] },
		{ name: 'end_workflow', after: ['merge_branches'] },
	],
	parallel_merge: [
		{ name: 'fetch_user_data', after: [] },
		{ name: 'fetch_order_data', after: [] },
		{ name: 'fetch_inventory_data', after: [] },
		{ name: 'fetch_pricing_data', after: [] },
		{ name: 'process_user_data', after: ['fetch_user_data'] },
		{ name: 'process_order_data', after: ['fetch_order_data'] },
		{
			name: 'merge_all_data',
			after: ['process_user_data', 'process_order_data', 'fetch_inventory_data', 'fetch_pricing_data'],
		},
	],
	tree: [
		{ name: 'root_initialization', after: [] },
		{ name: 'branch_a_setup', after: ['root_initialization'] },
		{ name: 'branch_b_setup', after: ['root_initialization'] },
		{ name: 'branch_a_task_one', after: ['branch_a_setup'] },
		{ name: 'branch_a_task_two', after: ['branch_a_setup'] },
		{ name: 'branch_b_task_one', after: ['branch_b_setup'] },
		{ name: 'branch_b_task_two', after: ['branch_b_setup'] },
		{
			name: 'aggregate_results',
			after: ['branch_a_task_one', 'branch_a_task_two', 'branch_b_task_one', 'branch_b_task_two'],
		},
	],
	mixed: [
		{ name: 'init_auth', after: [] },
		{ name: 'init_config', after: [] },
		{ name: 'validate_permissions', after: ['init_auth'] },
		{ name: 'setup_environment', after: ['init_config'] },
		{ name: 'begin_processing', after: ['validate_permissions', 'setup_environment'] },
		{ name: 'process_critical_data', after: ['begin_processing'] },
		{ name: 'process_optional_data', after: ['begin_processing'] },
		{ name: 'cleanup_temp_files', after: ['setup_environment'] },
		{ name: 'finalize_and_report', after: ['process_critical_data', 'cleanup_temp_files'] },
	],
};

// a, then b and c side by side, then d.
export const smallDiamond = [
	{ name: 'a', after: [] },
	{ name: 'b', after: ['a'] },
	{ name: 'c', after: ['a'] },
	{ name: 'd', after: ['b', 'c'] },
];

// One step.
export const single = [{ name: 'only', after: [] }];

// One step, then width steps side by side, then one that waits for them all.
export function fan(width) {
	const middle = Array.from({ length: width }, (_, i) => `middle_${i}`);
	return [
		{ name: 'first', after: [] },
		...middle.map((name) => ({ name, after: ['first'] })),
		{ name: 'last', after: middle },
	];
}

// A chain of that many steps.
export function chain(length) {
	return Array.from({ length }, (_, i) => ({ name: `link_${i}`, after: i ? [`link_${i - 1}`] : [] }));
}
