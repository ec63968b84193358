"""What a run says of itself, and all that is made of it: events.jsonl, one JSON object a line (events; follow and reader, which
thins it), rules of what looks sick (rules, learning_rules, machine_rules), the terminal, the dashboard of `honeclip watch`
(watched, curves, page, dashboard, access, watch), milestones and who is told of them (milestones, notify, delivery), trackers,
and a Mac that is kept awake. Between a run and everything here lies the file: nothing of it is called by the loop."""
