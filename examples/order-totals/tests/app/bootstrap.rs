//! The bootstrap binary as a process.

use std::process::Output;
use std::time::Duration;

use murmur_state::HandoffToken;
use murmur_state_ddb::create_int64_table;
use order_totals::Tables;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use crate::support::{App, image, stderr, today};

const CUSTOMERS: [&str; 3] = ["alice", "bob", "carol"];

pub(crate) fn bootstrap(app: &App) -> Command {
    let mut command = app.command(env!("CARGO_BIN_EXE_bootstrap"));
    command.args(["--table", &app.orders]);
    command
}

async fn run(app: &App, arguments: &[&str]) -> Output {
    bootstrap(app).args(arguments).output().await.unwrap()
}

/// Orders of 1, 2, 3 … cents, of one customer after the other.
pub(crate) async fn put_orders(app: &App, count: i64) {
    for n in 1..=count {
        let customer = CUSTOMERS[usize::try_from(n).unwrap() % 3];
        app.put_order(&format!("o-{n}"), (customer, n)).await;
    }
}

/// Compares the state with a recount of [`put_orders`].
pub(crate) async fn assert_counted_once(app: &App, count: i64) {
    for (place, customer) in (0..).zip(CUSTOMERS) {
        let own = (1..=count).filter(|n| n % 3 == place);
        let (total, orders) = (own.clone().sum::<i64>(), own.count() as i64);
        assert_eq!(
            app.state(customer).await,
            (Some(total), Some(orders)),
            "{customer}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_becomes_totals_and_a_token_and_is_not_counted_twice() {
    let app = App::start().await;
    put_orders(&app, 100).await;

    let output = run(&app, &["--segments", "4"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let token = String::from_utf8(output.stdout.clone()).unwrap();
    let token = HandoffToken::decode(token.trim()).unwrap();
    assert!(
        token.stream_arn.contains(&app.orders),
        "{}",
        token.stream_arn
    );
    assert!(
        stderr(&output).contains("100 rows scanned: 100 counted"),
        "{}",
        stderr(&output)
    );
    let lines: Vec<Value> = stderr(&output)
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let events: Vec<_> = lines.iter().map(|line| line["event"].clone()).collect();
    assert_eq!(events, ["started", "progress", "finished"]);
    assert_eq!(lines[2]["rows"], 100);
    assert_counted_once(&app, 100).await;

    // Started again, it says that it was finished, and the same token.
    let again = run(&app, &[]).await;
    assert_eq!(again.status.code(), Some(0), "{}", stderr(&again));
    let said = stderr(&again);
    assert!(
        said.contains("the bootstrap was finished before, as run"),
        "{said}"
    );
    assert_eq!(again.stdout, output.stdout);
    assert_counted_once(&app, 100).await;

    let output = run(&app, &["--restart"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("100 already counted"),
        "{}",
        stderr(&output)
    );
    assert_counted_once(&app, 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_finished_only_with_the_tables_it_filled() {
    let app = App::start().await;
    put_orders(&app, 9).await;
    let output = run(&app, &[]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let refused = async |totals: &str, named: [&str; 2]| {
        let mut command = bootstrap(&app);
        let output = command.env("TOTALS_TABLE", totals).output().await.unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        for word in named {
            assert!(said.contains(word), "{said}");
        }
        assert!(!said.contains("finished before"), "{said}");
    };

    let totals = app.tables.totals.as_str();
    let another = app.dynamo.table("another");
    create_int64_table(&app.client, &another).await.unwrap();
    refused(&another, [totals, &another]).await;

    let delete = app.client.delete_table().table_name(totals);
    delete.send().await.unwrap();
    create_int64_table(&app.client, totals).await.unwrap();
    refused(totals, [totals, &app.tables.markers]).await;
    assert_eq!(app.state("alice").await, (None, Some(3)));
}

/// A mapping of the stream that brings all that is relied on, as Lambda describes it.
pub(crate) fn mapping(arn: &str) -> Value {
    json!({
        "EventSourceArn": arn,
        "StartingPosition": "TRIM_HORIZON",
        "State": "Enabled",
        "LastModified": today() - 60,
        "FunctionResponseTypes": ["ReportBatchItemFailures"],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapping_that_would_miss_changes_is_refused_before_anything_is_written() {
    let app = App::start().await;
    put_orders(&app, 30).await;
    let arn = app.stream().await;
    let file = std::env::temp_dir().join(format!("{}.json", app.orders));
    let name = file.to_str().unwrap();
    let described = |change: Value| {
        let mut mapping = mapping(&arn);
        let fields = mapping.as_object_mut().unwrap();
        fields.extend(change.as_object().unwrap().clone());
        std::fs::write(&file, mapping.to_string()).unwrap();
    };
    for (change, word) in [
        (json!({ "StartingPosition": "LATEST" }), "LATEST"),
        (json!({ "State": "Disabled" }), "Disabled"),
        (
            json!({ "LastModified": today() + 3600 }),
            "was changed after",
        ),
        (json!({ "EventSourceArn": "arn:another" }), "arn:another"),
        (json!({ "MaximumRetryAttempts": 100 }), "OnFailure"),
        (json!({ "LastModified": "yesterday" }), name),
    ] {
        described(change);
        let output = run(&app, &["--mapping", name]).await;
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(word), "{}", stderr(&output));
        assert_eq!(app.state("alice").await, (None, None));
    }
    let output = run(&app, &["--mapping", "/nowhere.json"]).await;
    assert!(
        stderr(&output).contains("/nowhere.json"),
        "{}",
        stderr(&output)
    );

    described(json!({}));
    let output = run(&app, &["--mapping", name]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_counted_once(&app, 30).await;
    std::fs::remove_file(&file).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_can_never_count_are_listed_and_told_by_the_exit_status() {
    let app = App::start().await;
    put_orders(&app, 9).await;
    let mut bad = image("o-bad", ("alice", 0));
    bad["amount_cents"] = json!({ "S": "a lot" });
    app.put(serde_json::from_value(bad).unwrap()).await;

    let output = run(&app, &[]).await;
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    let listed = stderr(&output);
    let listed = listed.lines().find(|line| line.starts_with("rejected: "));
    assert!(
        listed.is_some_and(|line| line.contains("o-bad")),
        "{}",
        stderr(&output)
    );
    assert!(!output.stdout.is_empty(), "live can begin all the same");
    assert_counted_once(&app, 9).await;
}

/// A bootstrap that gets `signal` when its first page is done. It reads one row at a time, and few a
/// second, so that this is long before its end.
#[cfg(unix)]
async fn stopped_by(signal: &str, app: &App, arguments: &[&str]) {
    let mut command = bootstrap(app);
    command.args(["--segments", "1", "--page-size", "1", "--read-units", "20"]);
    command.args(arguments);
    let mut process = command.spawn().unwrap();
    let mut told = BufReader::new(process.stderr.take().unwrap());
    let mut line = String::new();
    // Once a page is done there is something to go on from.
    while !line.contains("\"event\":\"progress\"") {
        assert!(told.read_line(&mut line).await.unwrap() > 0, "{line}");
    }
    let id = process.id().unwrap().to_string();
    let sent = Command::new("kill")
        .args(["-s", signal, &id])
        .status()
        .await;
    assert!(sent.unwrap().success());
    told.read_to_string(&mut line).await.unwrap();
    let status = process.wait().await.unwrap();
    assert_eq!(status.code(), Some(3), "{line}");
    assert!(line.contains("run it again"), "{line}");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_row_rejected_before_it_was_stopped_is_told_when_it_ends() {
    let app = App::start().await;
    for n in 1..=200 {
        let mut bad = image(&format!("o-{n}"), ("alice", 0));
        bad["amount_cents"] = json!({ "S": "a lot" });
        app.put(serde_json::from_value(bad).unwrap()).await;
    }
    // Else nothing would be kept before a row was accepted.
    stopped_by("INT", &app, &["--accept-all-rejected"]).await;
    // Whatever it has not reached yet counts.
    put_orders(&app, 200).await;

    let output = run(&app, &["--segments", "1"]).await;
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(4), "{said}");
    let lines: Vec<&str> = said.lines().collect();
    let ends = |end: &str| lines.iter().any(|line| line.ends_with(end));
    assert!(ends(" 0 skipped, 0 rejected"), "{said}");
    let listed = lines.iter().filter(|line| line.starts_with("rejected: "));
    let listed = listed.count();
    assert!(
        (1..200).contains(&listed) && said.contains(&format!("{listed} rows ({listed} rejected)")),
        "{said}"
    );
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn stopped_it_says_so_and_run_again_it_counts_each_row_once() {
    let app = App::start().await;
    put_orders(&app, 300).await;

    for signal in ["INT", "TERM"] {
        stopped_by(signal, &app, &[]).await;
    }

    // Other segments are not those that were begun.
    let output = run(&app, &["--segments", "8"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    for named in ["1 segments", "8 segments"] {
        assert!(stderr(&output).contains(named), "{}", stderr(&output));
    }

    let output = run(&app, &["--segments", "1"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("and finished 0 segments"),
        "{}",
        stderr(&output)
    );
    assert_counted_once(&app, 300).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_or_unusable_is_named() {
    let app = App::without_tables().await;
    let output = app
        .command(env!("CARGO_BIN_EXE_bootstrap"))
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--table"), "{}", stderr(&output));

    let output = run(&app, &["--segments", "0"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("segments"), "{}", stderr(&output));

    let output = run(&app, &[]).await;
    assert_eq!(output.status.code(), Some(1), "no table is there");
    // All of them at once, and nothing before them.
    let said = stderr(&output);
    assert!(said.starts_with("error: no such table"), "{said}");
    let Tables {
        totals,
        counts,
        markers,
    } = &app.tables;
    for table in [&app.orders, totals, counts, markers] {
        assert!(said.contains(&format!("`{table}`")), "{said}");
    }

    let mut unset = bootstrap(&app);
    let output = unset.env_remove("COUNTS_TABLE").output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("COUNTS_TABLE"),
        "{}",
        stderr(&output)
    );
}

/// A way to the server that refuses connections for a while.
struct Outage {
    address: std::net::SocketAddr,
    /// Closes it for so long.
    close: tokio::sync::mpsc::Sender<Duration>,
}

impl Outage {
    async fn to(server: &str) -> Self {
        let server = server.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (close, mut closed) = tokio::sync::mpsc::channel::<Duration>(1);
        tokio::spawn(async move {
            let (mut listener, mut open) = (listener, tokio::task::JoinSet::new());
            loop {
                tokio::select! {
                    Ok((mut inside, _)) = listener.accept() => {
                        let server = server.clone();
                        open.spawn(async move {
                            let mut outside = TcpStream::connect(server).await?;
                            tokio::io::copy_bidirectional(&mut inside, &mut outside).await
                        });
                    }
                    Some(lasts) = closed.recv() => {
                        // What is under way breaks off, and nobody listens.
                        open.shutdown().await;
                        drop(listener);
                        tokio::time::sleep(lasts).await;
                        listener = TcpListener::bind(address).await.unwrap();
                    }
                }
            }
        });
        Self { address, close }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_is_told_at_once() {
    let app = App::without_tables().await;
    let mut command = bootstrap(&app);
    command
        .env("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        .env("AWS_ENDPOINT_URL_DYNAMODB", "http://127.0.0.1:9");
    let mut process = command.kill_on_drop(true).spawn().unwrap();
    let mut told = BufReader::new(process.stderr.take().unwrap());
    let mut line = String::new();
    let first = told.read_line(&mut line);
    // Long before the first report of an outage, which comes after half a minute.
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, first).await.unwrap().unwrap();
    assert!(line.contains("DynamoDB does not answer"), "{line}");
    assert!(line.contains("Connection refused"), "{line}");
}

/// In real time, since it is a process that waits: half a minute.
#[tokio::test(flavor = "multi_thread")]
async fn half_a_minute_of_refused_connections_ends_nothing_and_is_told() {
    let app = App::start().await;
    put_orders(&app, 300).await;
    let outage = Outage::to(app.dynamo.endpoint()).await;
    let mut command = bootstrap(&app);
    command.env("AWS_ENDPOINT_URL", format!("http://{}", outage.address));
    command.args(["--segments", "2", "--page-size", "10", "--read-units", "20"]);
    let mut process = command.spawn().unwrap();
    let mut told = BufReader::new(process.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("\"event\":\"progress\"") {
        assert!(told.read_line(&mut said).await.unwrap() > 0, "{said}");
    }
    outage.close.send(Duration::from_secs(34)).await.unwrap();
    told.read_to_string(&mut said).await.unwrap();
    let status = process.wait().await.unwrap();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("still trying"), "{said}");
    assert!(said.contains("it succeeds again after"), "{said}");
    assert_counted_once(&app, 300).await;
}
