//! The rows of the demo: generated orders, or rows from the user's file.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_dynamo::{AttributeValue, Item};

use super::recount::units;

/// The primary key of rows from a file, because the file does not say which attributes are its
/// keys.
const FILE_KEY: &str = "murmur_demo_row";

/// The definition of the totals.
#[derive(Clone, Debug)]
pub(super) struct Measure {
    /// The attribute to group by.
    pub(super) key: String,
    /// The attribute to total; `None` counts rows.
    pub(super) value: Option<String>,
    /// The number of its decimals.
    pub(super) decimals: u32,
}

impl Measure {
    pub(super) fn total(key: String, value: String, decimals: u32) -> Self {
        Self {
            key,
            value: Some(value),
            decimals,
        }
    }

    pub(super) fn count(key: String) -> Self {
        Self {
            key,
            value: None,
            decimals: 0,
        }
    }

    /// The text of an attribute; `None` if the row lacks it or it is NULL.
    pub(super) fn text(&self, item: &Item, attribute: &str) -> Result<Option<String>> {
        match item.get(attribute) {
            None | Some(AttributeValue::Null(_)) => Ok(None),
            Some(AttributeValue::S(text) | AttributeValue::N(text)) => Ok(Some(text.clone())),
            Some(other) => bail!(
                "attribute `{attribute}` is {}, not a String or Number",
                serde_json::to_string(other)?
            ),
        }
    }
}

/// One write to the table: an item, or its removal.
#[derive(Clone)]
pub(super) struct Row {
    pub(super) id: String,
    pub(super) item: Option<Item>,
}

/// All writes of a run. Within one wave of live writes every row is written once.
pub(super) struct Rows {
    pub(super) primary_key: String,
    pub(super) measure: Measure,
    pub(super) at_rest: Vec<Row>,
    pub(super) live: Vec<Vec<Row>>,
}

impl Rows {
    /// `count` orders at first; then a tenth as many new ones, with a twentieth changed and a
    /// thirtieth removed.
    pub(super) fn orders(count: usize, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let customers = (count / 20).clamp(1, 500);
        let mut order = |n: usize| {
            // Some customers order much more than others.
            let customer = (random.f64().powi(3) * customers as f64) as usize;
            let text = |text: String| AttributeValue::S(text);
            let item = HashMap::from([
                ("order_id".to_owned(), text(format!("order-{n:07}"))),
                (
                    "customer".to_owned(),
                    text(format!("customer-{customer:03}")),
                ),
                (
                    "amount_cents".to_owned(),
                    AttributeValue::N(random.u32(1..50_000).to_string()),
                ),
            ]);
            Row {
                id: format!("order-{n:07}"),
                item: Some(item.into()),
            }
        };
        let at_rest: Vec<Row> = (0..count).map(&mut order).collect();
        let inserts: Vec<Row> = (count..count + count / 10).map(&mut order).collect();
        let mut changed: Vec<usize> = (0..count).collect();
        fastrand::Rng::with_seed(seed ^ 1).shuffle(&mut changed);
        let (changed, rest) = changed.split_at(count / 20);
        let mut changes = Vec::with_capacity(changed.len());
        for (turn, n) in changed.iter().enumerate() {
            let before = &at_rest[*n].item;
            // Half of them keep their customer.
            let customer = before.as_ref().and_then(|item| item.get("customer"));
            let customer = customer.filter(|_| turn % 2 == 0);
            let mut another = || {
                let mut row = order(*n);
                if let (Some(item), Some(customer)) = (&mut row.item, customer) {
                    item.insert("customer".to_owned(), customer.clone());
                }
                row
            };
            let mut row = another();
            // A write without a change creates no stream record.
            while row.item == *before {
                row = another();
            }
            changes.push(row);
        }
        changes.extend(rest[..count / 30].iter().map(|n| Row {
            item: None,
            ..at_rest[*n].clone()
        }));
        // Writes of each kind occur during the scan and after it.
        let mut last = Vec::new();
        let mut mixed = [inserts, changes].concat();
        fastrand::Rng::with_seed(seed ^ 2).shuffle(&mut mixed);
        last.extend(mixed.split_off(mixed.len() * 3 / 4));
        Self {
            primary_key: "order_id".to_owned(),
            measure: Measure::total("customer".to_owned(), "amount_cents".to_owned(), 0),
            at_rest,
            live: vec![mixed, last],
        }
    }

    /// The rows of a file: nine tenths are in the table at the start, a tenth is written live. Some
    /// rows are changed or removed live and then restored, so that the totals are those of the
    /// file.
    pub(super) fn from_file(path: &Path, measure: Measure, seed: u64) -> Result<Self> {
        let mut rows = read(path, &measure)?;
        if rows.is_empty() {
            bail!("{} has no rows", path.display());
        }
        let mut random = fastrand::Rng::with_seed(seed);
        let touched = (rows.len() / 50).clamp(1, 1_000);
        let (mut disturbed, mut restored) = (Vec::new(), Vec::new());
        let mut chosen = BTreeSet::new();
        for n in 0..touched {
            let (at, from) = (random.usize(..rows.len()), random.usize(..rows.len()));
            let (Some(item), Some(other)) = (&rows[at].item, &rows[from].item) else {
                continue;
            };
            let mut changed = item.clone();
            for attribute in [Some(&measure.key), measure.value.as_ref()]
                .into_iter()
                .flatten()
            {
                match other.get(attribute) {
                    Some(value) => changed.insert(attribute.clone(), value.clone()),
                    None => changed.remove(attribute),
                };
            }
            let item = if n % 2 == 0 { Some(changed) } else { None };
            // A write without a change creates no stream record.
            if item != rows[at].item && chosen.insert(at) {
                disturbed.push(Row {
                    id: rows[at].id.clone(),
                    item,
                });
                restored.push(rows[at].clone());
            }
        }
        let live = rows.split_off(rows.len() - rows.len().div_ceil(10));
        Ok(Self {
            primary_key: FILE_KEY.to_owned(),
            measure,
            at_rest: rows,
            live: vec![live, disturbed, restored],
        })
    }
}

fn read(path: &Path, measure: &Measure) -> Result<Vec<Row>> {
    let open = || File::open(path).with_context(|| format!("cannot open {}", path.display()));
    let mut magic = Vec::new();
    open()?.take(2).read_to_end(&mut magic)?;
    let file: Box<dyn Read> = match magic[..] {
        [0x1f, 0x8b] => Box::new(flate2::read::MultiGzDecoder::new(open()?)),
        _ => Box::new(open()?),
    };
    let mut rows = Vec::new();
    for (n, line) in BufReader::new(file).lines().enumerate() {
        let line = line.with_context(|| format!("cannot read {}", path.display()))?;
        if line.trim().is_empty() {
            continue;
        }
        let id = format!("{:09}", n + 1);
        let item = item(&line, &id, measure)
            .with_context(|| format!("{}, line {}", path.display(), n + 1))?;
        rows.push(Row {
            id,
            item: Some(item),
        });
    }
    Ok(rows)
}

fn item(line: &str, id: &str, measure: &Measure) -> Result<Item> {
    let mut json: serde_json::Value = serde_json::from_str(line).context("this is not JSON")?;
    let inner = json
        .get_mut("Item")
        .map(serde_json::Value::take)
        .unwrap_or(json);
    let mut item: Item = serde_json::from_value(inner)
        .context(r#"this is not DynamoDB JSON like {"Item":{"id":{"S":"1"}}}"#)?;
    measure.text(&item, &measure.key)?;
    if let Some(attribute) = &measure.value
        && let Some(text) = measure.text(&item, attribute)?
    {
        units(&text, measure.decimals).with_context(|| format!("attribute `{attribute}`"))?;
    }
    item.insert(FILE_KEY.to_owned(), AttributeValue::S(id.to_owned()));
    Ok(item)
}
