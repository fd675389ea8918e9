//! `cargo xtask demo`: turns a table into live totals, and compares them with a recount.

mod live;
mod progress;
mod recount;
mod rows;
mod server;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use murmur_core::audit::{AuditOptions, LedgerStatus};
use murmur_core::{Decoded, Decoder, Item, Pipeline, Processor, Sum, decimal};
use murmur_lambda_ddbstreams::Handler;
use murmur_snapshot::{Bootstrap, Progress};
use murmur_snapshot_ddb::ParallelScan;
use murmur_state::{Grouped, HandoffToken};
use murmur_state_ddb::Int64SumStore;
use murmur_streams::{StreamsApi, Summary, Trigger};
use tokio::sync::watch;

use live::Scan;
use progress::Bar;
use recount::{Comparison, Log};
use rows::{Measure, Rows};
use server::{Server, Tables};

/// How long the demo waits for the next record of the stream.
const STREAM_PATIENCE: Duration = Duration::from_secs(120);

/// Turn a DynamoDB table into live totals, and compare them with a recount.
///
/// Creates a table, fills it with generated orders (or the rows of a file), and enables its stream.
/// Then three things happen at the same time: a parallel scan bootstraps the totals, the Lambda
/// handler keeps them live, and a writer inserts, changes, moves and removes orders before and
/// after the scan reaches them. Items leave the ledger with their first change after the scan; the
/// demo prints how many have. At the end it compares the totals with a recount of its own log of
/// writes, and fails if any total differs, or if there was none to compare.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// How many orders to generate; a tenth as many are added during the scan and after it
    #[arg(
        long,
        default_value_t = 10_000,
        value_name = "N",
        conflicts_with = "items"
    )]
    orders: usize,
    /// The seed of the generated orders and of the live changes
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Your own rows: lines of DynamoDB JSON, {"Item":{…}} as in exports, plain or gzip
    #[arg(long, value_name = "FILE", requires = "key")]
    items: Option<std::path::PathBuf>,
    /// The attribute to group your rows by: a string or a number
    #[arg(long, value_name = "ATTR", requires = "items")]
    key: Option<String>,
    /// The attribute to total: a number, or a string that holds one
    #[arg(
        long,
        value_name = "ATTR",
        requires = "items",
        conflicts_with = "count"
    )]
    value: Option<String>,
    /// How many decimals the value has; 12.34 with 2 is totalled as 1234
    #[arg(long, default_value_t = 0, value_name = "N", requires = "value")]
    decimals: u32,
    /// Count your rows instead of totalling an attribute
    #[arg(long, requires = "items")]
    count: bool,
    /// A DynamoDB to use instead of the embedded one: DynamoDB Local (http://…), or AWS (https://…,
    /// with the credentials and region of your environment). The demo touches only tables that it
    /// creates, and removes them at its end
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Segments of the parallel scan
    #[arg(long, default_value_t = 4, value_name = "N")]
    segments: u32,
}

/// Runs the demo. Returns `false` if the totals are wrong.
pub(crate) async fn run(args: Args) -> Result<bool> {
    let listed = args.items.is_some();
    let comparison = perform(&args, |_, _| async { Ok(()) }).await?;
    if listed {
        comparison.print_totals();
    }
    println!("{comparison}");
    Ok(comparison.holds())
}

/// Runs everything up to the comparison. `before_comparing` receives the client and the state
/// table.
async fn perform<F: Future<Output = Result<()>>>(
    args: &Args,
    before_comparing: impl FnOnce(aws_sdk_dynamodb::Client, String) -> F,
) -> Result<Comparison> {
    let rows = rows(args)?;
    let server = Server::start(args.endpoint.as_deref()).await?;
    println!("{server}");
    let tables = Tables::create(&server, &rows.primary_key).await?;
    let mut log = Log::default();

    let bar = Bar::new("filling the table", rows.at_rest.len());
    tables.load(&rows.at_rest, &bar).await?;
    log.extend(&rows.at_rest, &rows.measure)?;
    bar.finish();

    let stream_arn = tables.enable_stream().await?;
    println!("stream on, with new and old images");

    // Bootstrap and handler share the definition, as in one process, so the handler learns at once
    // that items settle.
    let definition = totals(&server, &tables, &rows.measure)?;
    let (scan, scanning) = watch::channel(Scan::Before);
    let (written, (), summary) = tokio::try_join!(
        live::write(&tables, &rows, scanning.clone(), &mut log),
        bootstrap(
            &server,
            &tables,
            &rows,
            args.segments,
            definition.clone(),
            scan
        ),
        live(&server, &rows, &stream_arn, definition.clone(), scanning),
    )?;
    println!("written while the table was scanned: {}", written.during);
    println!("written after that: {}", written.after);
    println!(
        "live: the Lambda handler processed {} batches",
        Grouped(summary.batches)
    );
    if written.during.total() == 0 {
        bail!("nothing was written while the table was scanned; use more orders with --orders");
    }
    let ledger = ledger(definition).await?;
    println!(
        "settled: {} of {} items have left the ledger, each by its first change after the bootstrap",
        Grouped(ledger.settled),
        Grouped(ledger.items)
    );
    if ledger.settled == 0 && written.after.total() > 0 {
        bail!("no item has left the ledger, although some were changed after the bootstrap");
    }
    before_comparing(server.client.clone(), tables.state.clone()).await?;
    let comparison = Comparison::of(&log, &tables.read_state().await?);
    tables.remove().await?;
    Ok(comparison)
}

fn rows(args: &Args) -> Result<Rows> {
    let Some(path) = &args.items else {
        return Ok(Rows::orders(args.orders, args.seed));
    };
    let key = args.key.clone().context("--items needs --key ATTR")?;
    let measure = match (&args.value, args.count) {
        (Some(value), false) => Measure::total(key, value.clone(), args.decimals),
        (None, true) => Measure::count(key),
        _ => bail!("--items needs --value ATTR to total an attribute, or --count to count rows"),
    };
    Rows::from_file(path, measure, args.seed)
}

/// The value of one row, and the total that it counts for.
struct Fact {
    key: String,
    value: i64,
}

fn totals(server: &Server, tables: &Tables, measure: &Measure) -> Result<Definition> {
    let pipeline = Pipeline::builder("demo_totals")
        .key(|fact: &Fact| fact.key.clone())
        .value(|fact| fact.value)
        .aggregate(Sum::new())
        .settle()
        .store(
            Int64SumStore::new(server.client.clone(), tables.state.as_str())
                .markers(tables.markers.as_str()),
        )
        .ledger()?;
    let measure = measure.clone();
    let decoder = Decoder::item(move |item: &Item| {
        let Some(key) = measure.text(item, &measure.key)? else {
            return Ok(Decoded::Skip);
        };
        let value = match &measure.value {
            None => 1,
            Some(attribute) => match measure.text(item, attribute)? {
                Some(text) => decimal::minor_units(&text, measure.decimals)?,
                None => return Ok(Decoded::Skip),
            },
        };
        Ok(Decoded::Record(Fact { key, value }))
    });
    Ok(Definition { pipeline, decoder })
}

#[derive(Clone)]
struct Definition {
    pipeline: Pipeline<Fact>,
    decoder: Decoder<Fact>,
}

/// The final status of the ledger.
async fn ledger(Definition { pipeline, decoder }: Definition) -> Result<LedgerStatus> {
    let processor = Processor::with_decoder([pipeline], decoder).build()?;
    let ledgers = processor.ledgers(&AuditOptions::default()).await?;
    ledgers
        .into_iter()
        .next()
        .context("the pipeline keeps no ledger")
}

async fn bootstrap(
    server: &Server,
    tables: &Tables,
    rows: &Rows,
    segments: u32,
    Definition { pipeline, decoder }: Definition,
    scan: watch::Sender<Scan>,
) -> Result<()> {
    let source = ParallelScan::builder(server.client.clone(), tables.source.as_str())
        .streams(server.streams.clone())
        .segments(segments)
        .build()?;
    let bar = Arc::new(Bar::new("bootstrap", rows.at_rest.len()));
    let shown = Arc::clone(&bar);
    let begun = Instant::now();
    let scan = Arc::new(scan);
    let tell = Arc::clone(&scan);
    let processor = Processor::with_decoder([pipeline], decoder).build()?;
    let report = Bootstrap::builder(processor, source)
        .on_progress(move |progress: &Progress<'_>| match progress {
            Progress::Started { .. } => {
                tell.send_replace(Scan::UnderWay);
            }
            Progress::Page { total, .. } => shown.set(total.rows as usize),
            _ => {}
        })
        .build()?
        .run()
        .await?;
    bar.finish();
    scan.send_replace(Scan::Over);
    println!(
        "bootstrap: {} rows scanned in {segments} segments: {} counted, {} superseded by newer \
         changes, in {:.1} s",
        Grouped(report.counts.rows),
        Grouped(report.counts.applied),
        Grouped(report.counts.superseded),
        begun.elapsed().as_secs_f64()
    );
    if report.counts.rejected > 0 {
        let rows: Vec<String> = report.rejected.iter().map(ToString::to_string).collect();
        bail!(
            "the bootstrap rejected {} rows; correct them, or leave them out: {}",
            Grouped(report.counts.rejected),
            rows.join("; ")
        );
    }
    let token = report
        .token
        .as_ref()
        .context("the scan captured no handoff token")?;
    println!("handoff: {}", summary(token));
    Ok(())
}

fn summary(token: &HandoffToken) -> String {
    format!(
        "captured before the scan, when {} shards were closed",
        token.closed.len()
    )
}

/// Keeps the totals live, from the start of the stream until every change is done.
async fn live(
    server: &Server,
    rows: &Rows,
    stream_arn: &str,
    Definition { pipeline, decoder }: Definition,
    mut scan: watch::Receiver<Scan>,
) -> Result<Summary> {
    let handler = Handler::new(Processor::with_decoder([pipeline], decoder).build()?);
    let expected = rows.live.iter().map(Vec::len).sum();
    let seen = Arc::new(Seen::default());
    let noted = Arc::clone(&seen);
    let source = StreamsApi::new(server.streams.clone(), stream_arn);
    let mut trigger = Trigger::builder(source, move |event: murmur_streams::Event| {
        let (handler, noted) = (handler.clone(), Arc::clone(&noted));
        async move {
            let ids: Vec<_> = event
                .records
                .iter()
                .map(|record| record.event_id.clone())
                .collect();
            let response = handler.call(event).await?;
            if response.batch_item_failures.is_empty() {
                noted.add(ids);
            }
            Ok::<_, murmur_lambda_ddbstreams::InvocationError>(response)
        }
    })
    .poll_interval(server.poll_interval())
    .build()?;

    let all = async {
        let _ = scan.wait_for(|scan| *scan == Scan::Over).await;
        let bar = Bar::new("live", expected);
        seen.reaches(expected, &bar).await;
        bar.finish();
    };
    let summary = trigger.run(all).await?;
    if seen.count() < expected {
        bail!(
            "the stream brought {} of {} changes, then nothing for {} s; run the demo again",
            Grouped(seen.count() as u64),
            Grouped(expected as u64),
            STREAM_PATIENCE.as_secs()
        );
    }
    Ok(summary)
}

/// The changes that the handler has done.
#[derive(Default)]
struct Seen(Mutex<HashSet<String>>);

impl Seen {
    fn add(&self, ids: Vec<String>) -> usize {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.extend(ids);
        seen.len()
    }

    fn count(&self) -> usize {
        self.add(Vec::new())
    }

    /// Completes once `expected` changes are done, or if no further change is done for too long.
    async fn reaches(&self, expected: usize, bar: &Bar) {
        let (mut last, mut since) = (0, Instant::now());
        while last < expected && since.elapsed() < STREAM_PATIENCE {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let now = self.count();
            bar.set(now);
            if now > last {
                (last, since) = (now, Instant::now());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_dynamodb::types::AttributeValue;
    use clap::Parser;
    use std::io::Write;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &[&str]) -> Args {
        Cli::parse_from([&["demo"], line].concat()).args
    }

    #[tokio::test]
    async fn generated_orders_end_with_no_total_differing() {
        let comparison = perform(&args(&["--orders", "400"]), |_, _| async { Ok(()) })
            .await
            .unwrap();
        assert!(comparison.holds(), "{comparison}");
        assert!(comparison.to_string().contains("0 differ"), "{comparison}");
    }

    #[tokio::test]
    async fn one_total_flipped_is_one_that_differs() {
        let comparison = perform(&args(&["--orders", "400"]), |client, table| async move {
            let totals = client.scan().filter_expression("attribute_exists(v)");
            let rows = totals.table_name(&table).send().await?;
            let row = &rows.items()[0];
            client
                .update_item()
                .table_name(&table)
                .key("pk", row["pk"].clone())
                .key("sk", row["sk"].clone())
                .update_expression("ADD v :one")
                .expression_attribute_values(":one", AttributeValue::N("1".into()))
                .send()
                .await?;
            Ok(())
        })
        .await
        .unwrap();
        assert!(!comparison.holds());
        assert!(
            comparison.to_string().ends_with("1 differs"),
            "{comparison}"
        );
    }

    #[tokio::test]
    async fn a_total_on_one_side_only_differs() {
        let comparison = perform(&args(&["--orders", "300"]), |client, table| async move {
            let stray = AttributeValue::S("nobody".into());
            client
                .put_item()
                .table_name(&table)
                .item("pk", stray)
                .item("sk", AttributeValue::N("0".into()))
                .item("v", AttributeValue::N("0".into()))
                .send()
                .await?;
            Ok(())
        })
        .await
        .unwrap();
        assert!(!comparison.holds() && comparison.to_string().ends_with("1 differs"));
    }

    fn file(gzip: bool) -> tempfile::NamedTempFile {
        let mut lines = String::new();
        for n in 0..300 {
            let item = format!(
                r#"{{"id":{{"S":"{n}"}},"shop":{{"S":"s{}"}},"paid":{{"N":"{}.50"}}}}"#,
                n % 7,
                n % 11
            );
            // Exports wrap each item; bare items work as well.
            lines += &if n % 2 == 0 {
                format!("{{\"Item\":{item}}}\n")
            } else {
                item + "\n"
            };
        }
        let mut file = tempfile::NamedTempFile::new().unwrap();
        if gzip {
            let mut encoder = flate2::write::GzEncoder::new(file.as_file_mut(), Default::default());
            encoder.write_all(lines.as_bytes()).unwrap();
            encoder.finish().unwrap();
        } else {
            file.write_all(lines.as_bytes()).unwrap();
        }
        file
    }

    #[tokio::test]
    async fn rows_of_ones_own_end_with_the_files_totals() {
        for gzip in [false, true] {
            let file = file(gzip);
            let path = file.path().to_str().unwrap();
            let line = [
                "--items",
                path,
                "--key",
                "shop",
                "--value",
                "paid",
                "--decimals",
                "2",
            ];
            let comparison = perform(&args(&line), |_, _| async { Ok(()) })
                .await
                .unwrap();
            assert!(comparison.holds(), "{comparison}");
            let expected: i128 = (0..300)
                .filter(|n| n % 7 == 3)
                .map(|n| n % 11 * 100 + 50)
                .sum();
            assert_eq!(comparison.total("s3"), Some(expected));
            let line = ["--items", path, "--key", "shop", "--count"];
            let counts = perform(&args(&line), |_, _| async { Ok(()) })
                .await
                .unwrap();
            assert!(counts.holds() && counts.total("s0") == Some(43), "{counts}");
        }
    }

    #[tokio::test]
    async fn a_value_with_more_decimals_than_said_is_named_with_its_line() {
        let file = file(false);
        let path = file.path().to_str().unwrap();
        let line = ["--items", path, "--key", "shop", "--value", "paid"];
        let error = perform(&args(&line), |_, _| async { Ok(()) })
            .await
            .unwrap_err();
        let message = format!("{error:#}");
        assert!(
            message.contains("line 1") && message.contains("--decimals"),
            "{message}"
        );
    }
}
