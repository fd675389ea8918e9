//! The bootstrap of many workers: the definition for Step Functions, and processes side by side.

use std::collections::BTreeSet;
use std::process::{Output, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, join_all};
use murmur_state::Checkpoints;
use murmur_state::checkpoint::Saved;
use murmur_state_ddb::Deduper;
use murmur_testkit::gate::{Gate, Hold};
use murmur_testkit::lambda::{InvocationError, RuntimeApi};
use serde_json::{Value, json};
use tokio::process::Child;

use crate::bootstrap::{assert_counted_once, bootstrap, mapping, put_orders};
use crate::support::{App, image, stderr};

/// Longer than any call here takes.
const TIMEOUT: Duration = Duration::from_secs(60);

/// So little that a call is over before it has done much.
const SHORT: Duration = Duration::from_millis(100);

/// The most numbers that `States.ArrayRange` makes.
const MOST_WORKERS: usize = 1000;

/// The most bytes that a state may give to the next one.
const MOST_DATA: usize = 256 * 1024;

fn definition() -> Value {
    serde_json::from_str(include_str!("../../deploy/bootstrap.asl.json")).unwrap()
}

/// Sees that a state machine is one, by the rules of the Amazon States Language
/// (<https://states-language.net/spec.html>).
fn check(machine: &Value) {
    let states = machine["States"].as_object().expect("states");
    let mut reached = BTreeSet::new();
    let mut next = vec![machine["StartAt"].as_str().expect("a first state")];
    while let Some(name) = next.pop() {
        let state = states
            .get(name)
            .unwrap_or_else(|| panic!("no state {name}"));
        if !reached.insert(name) {
            continue;
        }
        let kind = state["Type"].as_str().expect("a type");
        let goes_on = state["Next"].as_str();
        let ends = state["End"].as_bool().unwrap_or(false);
        match kind {
            "Pass" | "Task" | "Map" => {
                assert_ne!(goes_on.is_some(), ends, "{name} goes on or ends");
            }
            "Choice" | "Succeed" => assert!(goes_on.is_none() && !ends, "{name}"),
            "Fail" => {
                assert!(goes_on.is_none() && !ends, "{name}");
                assert!(state["Error"].is_string() && state["CausePath"].is_string());
            }
            other => panic!("{name} is of type {other}"),
        }
        next.extend(goes_on);
        if kind == "Choice" {
            let rules = state["Choices"].as_array().expect("choices");
            assert!(!rules.is_empty());
            next.extend(
                rules
                    .iter()
                    .map(|rule| rule["Next"].as_str().expect("a state")),
            );
            next.push(state["Default"].as_str().expect("a default"));
        }
        if kind == "Task" {
            assert!(
                state["Resource"]
                    .as_str()
                    .expect("a resource")
                    .starts_with("arn:${Partition}:")
            );
            for retry in state["Retry"].as_array().into_iter().flatten() {
                assert!(
                    retry["ErrorEquals"]
                        .as_array()
                        .is_some_and(|errors| !errors.is_empty())
                );
                // What can never work would be tried for half an hour by any of these.
                let errors = retry["ErrorEquals"].as_array().unwrap();
                for of_all in ["States.ALL", "States.TaskFailed", "FailedForGood"] {
                    assert!(!errors.contains(&json!(of_all)), "{of_all}");
                }
                assert!(retry["BackoffRate"].as_f64().is_none_or(|rate| rate >= 1.0));
                let jitter = retry["JitterStrategy"].as_str().unwrap_or("NONE");
                assert!(["FULL", "NONE"].contains(&jitter));
            }
        }
        if kind == "Map" {
            let inner = &state["ItemProcessor"];
            let config = &inner["ProcessorConfig"];
            assert_eq!(config["Mode"], "DISTRIBUTED");
            assert!(["STANDARD", "EXPRESS"].contains(&config["ExecutionType"].as_str().unwrap()));
            check(inner);
        }
        for template in ["Parameters", "ItemSelector", "ResultSelector"] {
            for (field, value) in state[template].as_object().into_iter().flatten() {
                let path = value.as_str().unwrap_or_default();
                let computed = path.starts_with('$') || path.starts_with("States.");
                assert_eq!(
                    field.ends_with(".$"),
                    computed && !path.starts_with("${"),
                    "{field}"
                );
            }
        }
        for path in ["ItemsPath", "OutputPath", "ResultPath"] {
            let path = &state[path];
            assert!(path.is_null() || path.as_str().is_some_and(|path| path.starts_with('$')));
        }
    }
    let known: BTreeSet<&str> = states.keys().map(String::as_str).collect();
    assert_eq!(reached, known, "every state can be reached");
}

#[test]
fn the_definition_is_one_and_its_template_names_what_it_calls() {
    let definition = definition();
    check(&definition);
    let worker = &definition["States"]["Workers"]["ItemProcessor"];
    let outputs = worker["States"]["Done"]["Parameters"].as_object().unwrap();
    assert_eq!(
        outputs.len(),
        3,
        "the outputs of 1,000 workers have a limit"
    );
    let template: Value =
        serde_saphyr::from_str(include_str!("../../deploy/bootstrap.yaml")).unwrap();
    let machine = &template["Resources"]["Bootstrap"]["Properties"];
    assert_eq!(machine["DefinitionUri"], "bootstrap.asl.json");
    let substituted = machine["DefinitionSubstitutions"].as_object().unwrap();
    let text = include_str!("../../deploy/bootstrap.asl.json");
    assert_eq!(text.matches("${").count(), substituted.len());
    assert!(
        substituted
            .keys()
            .all(|name| text.contains(&format!("${{{name}}}")))
    );
    let function = &template["Resources"]["BootstrapFunction"]["Properties"];
    assert_eq!(
        function["Timeout"], 900,
        "the most that Lambda gives a call"
    );
    let variables = function["Environment"]["Variables"].as_object().unwrap();
    let variables: BTreeSet<&str> = variables.keys().map(String::as_str).collect();
    assert_eq!(
        variables,
        BTreeSet::from(["COUNTS_TABLE", "MARKER_TABLE", "TOTALS_TABLE"])
    );
}

/// Every ARN names the partition it is in, and the machine's role may start that machine alone.
#[test]
fn arns_have_a_partition_and_the_machine_starts_only_itself() {
    for (name, text) in [
        (
            "bootstrap.yaml",
            include_str!("../../deploy/bootstrap.yaml"),
        ),
        (
            "bootstrap.asl.json",
            include_str!("../../deploy/bootstrap.asl.json"),
        ),
        ("template.yaml", include_str!("../../template.yaml")),
    ] {
        assert!(!text.contains("arn:aws"), "{name}");
    }
    let template: Value =
        serde_saphyr::from_str(include_str!("../../deploy/bootstrap.yaml")).unwrap();
    let resources = &template["Resources"];
    let machine = &resources["Bootstrap"]["Properties"];
    let name = machine["Name"]["Fn::Sub"]
        .as_str()
        .expect("a name of its own");
    let policy = &resources["BootstrapRole"]["Properties"]["Policies"][0]["PolicyDocument"];
    let mut granted = BTreeSet::new();
    for statement in policy["Statement"].as_array().unwrap() {
        let resource = &statement["Resource"];
        let on = match resource["Fn::Sub"].as_str() {
            Some(arn) => {
                let (account, of) = arn.rsplit_once("${AWS::AccountId}:").expect("an account");
                assert_eq!(account, "arn:${AWS::Partition}:states:${AWS::Region}:");
                of.replace(name, "SELF")
            }
            None => resource["Fn::GetAtt"][0].as_str().unwrap().to_owned(),
        };
        for action in statement["Action"].as_array().unwrap() {
            granted.insert(format!("{} {on}", action.as_str().unwrap()));
        }
    }
    let needed = [
        "lambda:InvokeFunction BootstrapFunction",
        "states:DescribeExecution execution:SELF/*",
        "states:StartExecution stateMachine:SELF",
        "states:StopExecution execution:SELF/*",
    ];
    assert_eq!(granted, needed.map(str::to_owned).into());
    let partition = &machine["DefinitionSubstitutions"]["Partition"];
    assert_eq!(partition["Ref"], "AWS::Partition");
}

/// How an execution failed.
#[derive(Debug, Clone)]
struct Failed {
    error: String,
    cause: String,
}

type Ended = Result<Value, Failed>;

/// Plays as much of the language as the definition uses.
struct Machine<'a> {
    api: &'a RuntimeApi,
    /// Each call: what it was given, and what it answered, if it did.
    calls: Mutex<Vec<(Value, Option<Value>)>>,
}

impl Machine<'_> {
    fn run<'m>(&'m self, machine: &'m Value, input: Value) -> BoxFuture<'m, Ended> {
        async move {
            let context = json!({ "Execution": { "Input": input } });
            let (mut name, mut data) = (machine["StartAt"].as_str().unwrap(), input);
            loop {
                let state = &machine["States"][name];
                data = match state["Type"].as_str().unwrap() {
                    "Pass" => filled(&state["Parameters"], &data, &context),
                    "Task" => {
                        let parameters = filled(&state["Parameters"], &data, &context);
                        let retried = &state["Retry"][0]["ErrorEquals"];
                        let payload = self.call(&parameters["Payload"], retried).await?;
                        let result = json!({ "Payload": payload });
                        data["answer"] = filled(&state["ResultSelector"], &result, &context);
                        data
                    }
                    "Map" => {
                        let items = at(&data, state["ItemsPath"].as_str().unwrap());
                        let each = items.as_array().unwrap().iter().map(|item| {
                            let mut context = context.clone();
                            context["Map"] = json!({ "Item": { "Value": item } });
                            let input = filled(&state["ItemSelector"], &data, &context);
                            self.run(&state["ItemProcessor"], input)
                        });
                        let mut outputs = Vec::new();
                        for output in join_all(each).await {
                            let output = output?;
                            let of_all = MOST_WORKERS * output.to_string().len();
                            assert!(of_all < MOST_DATA, "{output}");
                            outputs.push(output);
                        }
                        let result = state["ResultPath"].as_str().unwrap();
                        data[result.strip_prefix("$.").unwrap()] = outputs.into();
                        data
                    }
                    "Choice" => {
                        let rules = state["Choices"].as_array().unwrap().iter();
                        let rule = rules.clone().find(|rule| holds(rule, &data));
                        name = rule
                            .map_or(&state["Default"], |rule| &rule["Next"])
                            .as_str()
                            .unwrap();
                        continue;
                    }
                    "Succeed" => {
                        return Ok(data);
                    }
                    "Fail" => {
                        let cause = state["CausePath"].as_str().unwrap();
                        return Err(Failed {
                            error: state["Error"].as_str().unwrap().to_owned(),
                            cause: computed(cause, &data, &context)
                                .as_str()
                                .unwrap()
                                .to_owned(),
                        });
                    }
                    other => panic!("{other}"),
                };
                match state["Next"].as_str() {
                    Some(next) => name = next,
                    None => return Ok(data),
                }
            }
        }
        .boxed()
    }

    /// Calls the function until it answers, or fails with what is not `retried`. The first call for
    /// each part is a short one.
    async fn call(&self, payload: &Value, retried: &Value) -> Ended {
        loop {
            let first = {
                let mut calls = self.calls.lock().unwrap();
                let first = calls
                    .iter()
                    .all(|(before, _)| before["from"] != payload["from"]);
                calls.push((payload.clone(), None));
                first
            };
            let time = if first { SHORT } else { TIMEOUT / 6 };
            match self.api.invoke(payload.clone(), time).await {
                Ok(answer) => {
                    let mut calls = self.calls.lock().unwrap();
                    calls.push((payload.clone(), Some(answer.clone())));
                    return Ok(answer);
                }
                // Anything else is a call that was cut off, as Lambda calls it.
                Err(InvocationError::Function { kind, message })
                    if !retried.as_array().unwrap().contains(&json!(kind)) =>
                {
                    return Err(Failed {
                        error: kind,
                        cause: message,
                    });
                }
                Err(_) => {}
            }
        }
    }
}

/// Whether a rule of a choice holds.
fn holds(rule: &Value, data: &Value) -> bool {
    if let Some(rules) = rule["And"].as_array() {
        return rules.iter().all(|rule| holds(rule, data));
    }
    let found = find(data, rule["Variable"].as_str().unwrap());
    match (rule["IsPresent"].as_bool(), rule["BooleanEquals"].as_bool()) {
        (Some(wanted), None) => found.is_some() == wanted,
        (None, Some(wanted)) => *found.expect("the variable is there") == wanted,
        _ => panic!("{rule}"),
    }
}

/// A payload template with its paths resolved.
fn filled(template: &Value, data: &Value, context: &Value) -> Value {
    let fields = template.as_object().unwrap().iter();
    let resolve = |(field, value): (&String, &Value)| match field.strip_suffix(".$") {
        Some(field) => (
            field.to_owned(),
            computed(value.as_str().unwrap(), data, context),
        ),
        None => (field.clone(), value.clone()),
    };
    Value::Object(fields.map(resolve).collect())
}

/// A path into the data or the context, an intrinsic function, or a number in one.
fn computed(text: &str, data: &Value, context: &Value) -> Value {
    if text.starts_with("$$") {
        return at(context, &text[1..]);
    }
    if let Some((list, filter)) = text
        .strip_suffix(")]")
        .and_then(|text| text.split_once("[?(@."))
    {
        let (field, wanted) = filter.split_once(' ').unwrap();
        let mut entries = at(data, list).as_array().unwrap().clone();
        entries.retain(|entry| match wanted {
            "> 0" => entry[field].as_u64().unwrap() > 0,
            "== false" => !entry[field].as_bool().unwrap(),
            other => panic!("{other}"),
        });
        return entries.into();
    }
    if let Some(rest) = text.strip_prefix("States.Format('") {
        let (template, argument) = rest.strip_suffix(')').unwrap().split_once("', ").unwrap();
        let argument = computed(argument, data, context).to_string();
        return template.replacen("{}", &argument, 1).into();
    }
    if let Some(list) = text.strip_prefix("States.ArrayLength(") {
        let list = at(data, list.strip_suffix(')').unwrap());
        return json!(list.as_array().unwrap().len());
    }
    if let Some(call) = text.strip_suffix(')') {
        let (function, arguments) = call.split_once('(').unwrap();
        let arguments: Vec<i64> = split(arguments)
            .into_iter()
            .map(|argument| computed(argument, data, context).as_i64().unwrap())
            .collect();
        return match (function, &arguments[..]) {
            ("States.MathAdd", [one, other]) => json!(one + other),
            ("States.ArrayRange", [first, last, step]) => {
                let numbers: Vec<i64> = (*first..=*last).step_by(*step as usize).collect();
                assert!(numbers.len() <= MOST_WORKERS);
                json!(numbers)
            }
            other => panic!("{other:?}"),
        };
    }
    match text.starts_with('$') {
        true => at(data, text),
        false => text.parse::<i64>().unwrap().into(),
    }
}

/// Arguments, at commas that are in no call.
fn split(arguments: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, character) in arguments.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(arguments[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(arguments[start..].trim());
    parts
}

fn at(data: &Value, path: &str) -> Value {
    let named = || panic!("no {path} in {data}");
    find(data, path).unwrap_or_else(named).clone()
}

fn find<'d>(data: &'d Value, path: &str) -> Option<&'d Value> {
    let pointer = path.strip_prefix('$').unwrap();
    data.pointer(&pointer.replace('.', "/").replace("[0]", "/0"))
}

/// What a call is given: one segment of two, and `options` beside.
fn part(app: &App, from: u32, options: Value) -> Value {
    let mut fill = json!({ "run": "fill", "table": app.orders, "segments": 2, "take": 1 });
    let fields = fill.as_object_mut().unwrap();
    fields.extend(options.as_object().unwrap().clone());
    json!({ "fill": fill, "from": from })
}

/// Lets the run have begun so much earlier.
async fn age_run(app: &App, by: Duration) {
    let markers = Deduper::new(app.client.clone(), app.tables.markers.as_str());
    for pipeline in app.tables.pipelines(&app.client).unwrap() {
        let name = pipeline.name().marker("bootstrap", &[&app.orders]);
        let kept = markers.load(&name).await.unwrap().unwrap();
        let mut record: Value = serde_json::from_str(&kept.data).unwrap();
        let began = record["captured_at"].as_i64().unwrap();
        record["captured_at"] = json!(began - by.as_millis() as i64);
        let record = record.to_string();
        let saved = markers.save(&name, &record, Some(kept.version)).await;
        assert!(matches!(saved.unwrap(), Saved::Version(_)));
    }
}

/// A process of the function.
fn function(app: &App, api: &RuntimeApi, gate: &Gate) -> Child {
    let mut command = app.command(env!("CARGO_BIN_EXE_bootstrap"));
    let command = command.envs(api.env()).envs(gate.env());
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn played_with_calls_too_short_and_processes_that_die_it_counts_every_order_once() {
    let app = App::start().await;
    put_orders(&app, 600).await;
    let (api, gate) = (RuntimeApi::start().await, Gate::to(&app.dynamo).await);
    let mut processes: Vec<Child> = (0..3).map(|_| function(&app, &api, &gate)).collect();
    let machine = Machine {
        api: &api,
        calls: Mutex::default(),
    };
    let definition = definition();
    let mapping = mapping(&app.stream().await);
    let mut input = json!({
        "run": "fill", "table": app.orders, "segments": 10, "take": 4, "mapping": mapping,
        "live_is_running": true, "read_units": 1e6,
    });
    let play = machine.run(&definition, input.clone());
    let kill = async {
        // Whoever is in the middle of a transaction: all die, and new ones are started.
        gate.hold(Some("TransactWriteItems"), 2, Hold::After).await;
        for process in &mut processes {
            process.kill().await.unwrap();
            *process = function(&app, &api, &gate);
        }
    };
    let (ended, ()) = tokio::join!(play, kill);
    assert_counted_once(&app, 600).await;
    // It says that every row counts, or else that it cannot know, when the answer that told of the
    // end was lost.
    match &ended {
        Ok(data) => assert_eq!(data["rejecting"], json!([])),
        Err(failed) => assert_eq!(failed.error, "RejectedRowsUnknown"),
    }

    let take = || std::mem::take(&mut *machine.calls.lock().unwrap());
    let calls = take();
    let answers: Vec<&Value> = calls
        .iter()
        .filter_map(|(_, answer)| answer.as_ref())
        .collect();
    let parts: BTreeSet<u64> = calls
        .iter()
        .map(|(part, _)| part["from"].as_u64().unwrap())
        .collect();
    assert_eq!(parts, BTreeSet::from([0, 4, 8]));
    let failed = calls.len() - 2 * answers.len();
    let unfinished = answers
        .iter()
        .filter(|answer| answer["done"] == false)
        .count();
    let finished = answers
        .iter()
        .filter(|answer| answer["finished"] == true)
        .count();
    println!(
        "{} calls, {failed} without an answer, {unfinished} not done",
        calls.len() - answers.len()
    );
    assert!(failed + unfinished >= 3 && finished >= 1, "{calls:?}");

    // Started again, with no more than it needs, it says that all is done, and that what was rejected
    // is not known any more.
    let fields = input.as_object_mut().unwrap();
    for optional in ["mapping", "live_is_running", "read_units"] {
        fields.remove(optional).unwrap();
    }
    let failed = machine.run(&definition, input.clone()).await.unwrap_err();
    assert_eq!(failed.error, "RejectedRowsUnknown");
    assert!(failed.cause.contains("finished before"), "{failed:?}");
    let calls = take();
    let mut answers = calls.iter().filter_map(|(_, answer)| answer.as_ref());
    assert!(answers.all(|answer| answer["finished"] == true && answer["rows"] == 0));
    input["accept_rejected"] = true.into();
    machine.run(&definition, input).await.unwrap();
    assert_counted_once(&app, 600).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn played_over_rows_that_can_never_count_it_fails_with_their_number_or_accepts_them() {
    let app = App::start().await;
    put_orders(&app, 30).await;
    for n in 1..=7 {
        let mut bad = image(&format!("o-bad-{n}"), ("alice", 0));
        bad["amount_cents"] = json!({ "S": "a lot" });
        app.put(serde_json::from_value(bad).unwrap()).await;
    }
    let (api, gate) = (RuntimeApi::start().await, Gate::to(&app.dynamo).await);
    let _process = function(&app, &api, &gate);
    // The first call of each part is not a short one here: an answer that is lost is another test's.
    let called = |from: u32| (json!({ "from": from }), None);
    let machine = Machine {
        api: &api,
        calls: Mutex::new(vec![called(0), called(1)]),
    };
    let mut input = json!({ "run": "fill", "table": app.orders, "segments": 2, "take": 1 });
    let failed = machine.run(&definition(), input.clone()).await.unwrap_err();
    assert_eq!(failed.error, "RowsRejected", "{failed:?}");
    assert!(failed.cause.contains("workers found rows"), "{failed:?}");
    let rejected = |calls: &[(Value, Option<Value>)]| {
        let answers = calls.iter().filter_map(|(_, answer)| answer.as_ref());
        answers
            .map(|answer| answer["rejected"].as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!(rejected(&machine.calls.lock().unwrap()), 7);
    assert_counted_once(&app, 30).await;

    input["accept_rejected"] = true.into();
    machine.run(&definition(), input).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn played_over_a_table_that_is_not_there_it_fails_at_the_first_call() {
    let app = App::start().await;
    let (api, gate) = (RuntimeApi::start().await, Gate::to(&app.dynamo).await);
    let _process = function(&app, &api, &gate);
    let machine = Machine {
        api: &api,
        calls: Mutex::new(vec![(json!({ "from": 0 }), None)]),
    };
    let input = json!({ "run": "fill", "table": "nothing", "segments": 1, "take": 1 });
    let failed = machine.run(&definition(), input).await.unwrap_err();
    assert_eq!(failed.error, "FailedForGood", "{failed:?}");
    assert!(failed.cause.contains("nothing"), "{failed:?}");
    assert_eq!(
        machine.calls.lock().unwrap().len(),
        2,
        "one call of its own"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_refuses_a_mapping_that_would_miss_changes_and_goes_without_one() {
    let app = App::start().await;
    put_orders(&app, 30).await;
    let (api, gate) = (RuntimeApi::start().await, Gate::to(&app.dynamo).await);
    let _process = function(&app, &api, &gate);
    let mut unfit = mapping(&app.stream().await);
    unfit["StartingPosition"] = "LATEST".into();
    let checked = part(&app, 0, json!({ "take": 2, "mapping": unfit }));
    let refused = api.invoke(checked, TIMEOUT).await.unwrap_err();
    assert!(refused.to_string().contains("LATEST"), "{refused}");
    assert_eq!(app.state("alice").await, (None, None));

    let unchecked = part(&app, 0, json!({ "take": 2, "mapping": null }));
    let answer = api.invoke(unchecked, TIMEOUT).await.unwrap();
    assert_eq!(answer["finished"], true);
    assert_counted_once(&app, 30).await;

    // Another run is not this one's, and not done.
    let another = part(&app, 0, json!({ "take": 2, "run": "another" }));
    let refused = api.invoke(another, TIMEOUT).await.unwrap_err();
    assert!(refused.to_string().contains("run `fill`"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_refuses_options_that_it_does_not_know_or_cannot_keep_to() {
    let app = App::start().await;
    put_orders(&app, 30).await;
    let (api, gate) = (RuntimeApi::start().await, Gate::to(&app.dynamo).await);
    let _process = function(&app, &api, &gate);
    for (options, named) in [
        (json!({ "read_unit": 5 }), "read_unit"),
        (json!({ "live-is-running": true }), "live-is-running"),
        (json!({ "read_units": 0 }), "0 read units a second"),
    ] {
        let refused = api.invoke(part(&app, 0, options), TIMEOUT).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains(named), "{refused}");
    }
    assert_eq!(app.state("alice").await, (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_goes_on_with_an_old_run_if_live_has_been_running() {
    let app = App::start().await;
    put_orders(&app, 30).await;
    let (api, gate) = (RuntimeApi::start().await, Gate::to(&app.dynamo).await);
    let _process = function(&app, &api, &gate);
    let first = api.invoke(part(&app, 0, json!({})), TIMEOUT).await.unwrap();
    assert_eq!([&first["done"], &first["finished"]], [true, false]);
    age_run(&app, Duration::from_secs(30 * 3600)).await;

    let refused = api.invoke(part(&app, 1, json!({})), TIMEOUT).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("began 30 h ago"), "{refused}");
    let beside_live = part(&app, 1, json!({ "live_is_running": true }));
    let second = api.invoke(beside_live, TIMEOUT).await.unwrap();
    assert_eq!(second["finished"], true);
    assert_counted_once(&app, 30).await;
}

/// A process with segments `from` to `to` of nine.
async fn worker(app: &App, from: u32, to: u32) -> Output {
    let (from, to) = (from.to_string(), to.to_string());
    let mut command = bootstrap(app);
    command.args(["--segments", "9", "--run", "fill"]);
    command.args(["--from", &from, "--to", &to]);
    command.output().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_done_before_others_says_so() {
    let app = App::start().await;
    put_orders(&app, 30).await;
    let mut not_yet = Vec::new();
    for (from, to) in [(0, 4), (4, 9)] {
        let output = worker(&app, from, to).await;
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        not_yet.push(stderr(&output).contains("this part is done, other parts are not"));
    }
    assert_eq!(not_yet, [true, false]);
    assert_counted_once(&app, 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_side_by_side_finish_one_run() {
    let app = App::start().await;
    put_orders(&app, 300).await;
    let outputs = join_all([worker(&app, 0, 3), worker(&app, 3, 6), worker(&app, 6, 9)]).await;
    let mut tokens = BTreeSet::new();
    for output in outputs {
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        tokens.insert(output.stdout);
    }
    assert_eq!(tokens.len(), 1, "all go by the token of whoever came first");
    assert_counted_once(&app, 300).await;

    let late = worker(&app, 0, 3).await;
    assert_eq!(late.status.code(), Some(0), "{}", stderr(&late));
    assert!(
        stderr(&late).contains("finished before"),
        "{}",
        stderr(&late)
    );
    assert!(tokens.contains(&late.stdout), "the same token again");
    let odd = bootstrap(&app)
        .args(["--run", "fill", "--from", "3"])
        .output()
        .await
        .unwrap();
    assert_eq!(odd.status.code(), Some(2), "{}", stderr(&odd));
}
