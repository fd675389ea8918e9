//! What the processor itself costs per event: batches of changes on the in-memory store.
//!
//! `processor` looks its decoded orders up by the record, so that nothing else is measured;
//! `attributes` reads two attributes of the item by hand, `serde` deserializes it.

#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]
#![allow(missing_docs, reason = "criterion's macros write public functions")]

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use murmur_core::{AttributeValue, Change, Decoded, Decoder, Pipeline, Processor, Record, Sum};
use murmur_state::{Deadline, MemoryStore, SequenceNumber, Timestamp};
use serde::Deserialize;

/// Customers, drawn by Zipf's law with this exponent.
const KEYS: usize = 1_000;
const EXPONENT: f64 = 1.1;

const BATCHES: [usize; 3] = [1, 100, 10_000];

#[derive(Clone, Deserialize)]
struct Order {
    customer: Arc<str>,
    amount: i64,
}

fn processor(decoder: Decoder<Order>, exactly_once: bool) -> Processor<Order> {
    let definition = Pipeline::builder("order_totals")
        .keys(|order: &Order, out| out(&order.customer))
        .value(|order| order.amount)
        .aggregate(Sum::new())
        .every_change()
        .store(MemoryStore::new(Sum::new()));
    let pipeline = if exactly_once {
        definition.exactly_once()
    } else {
        definition.at_least_once()
    };
    Processor::with_decoder([pipeline.unwrap()], decoder)
        .build()
        .unwrap()
}

/// Orders, and the changes that insert them: `count` with ids of their own. The creation time
/// of a change is the place of its order.
fn orders(count: usize) -> (Vec<Order>, Vec<Record>) {
    let names: Vec<Arc<str>> = (0..KEYS)
        .map(|n| format!("customer-{n:05}").into())
        .collect();
    let mut random = fastrand::Rng::with_seed(7);
    let weights = (1..=KEYS).map(|rank| (rank as f64).powf(-EXPONENT));
    let sums: Vec<f64> = weights
        .scan(0.0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        })
        .collect();
    let orders: Vec<Order> = (0..count)
        .map(|n| {
            let drawn = random.f64() * sums[KEYS - 1];
            Order {
                customer: Arc::clone(&names[sums.partition_point(|sum| *sum < drawn)]),
                amount: n as i64 % 997,
            }
        })
        .collect();
    let records = orders.iter().enumerate().map(|(n, order)| {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let item = HashMap::from([
            ("customer".to_owned(), text(&order.customer)),
            (
                "amount".to_owned(),
                AttributeValue::N(order.amount.to_string()),
            ),
        ]);
        Record::Changed(Change {
            event_id: format!("{:032x}", random.u128(..)),
            keys: HashMap::from([("n".to_owned(), AttributeValue::N(n.to_string()))]).into(),
            new_image: Some(item.into()),
            sequence_number: Some(SequenceNumber::new(format!("{n:021}")).unwrap()),
            created: Some(Timestamp::from_millis(n as i64)),
            ..Change::default()
        })
    });
    let records = records.collect();
    (orders, records)
}

fn looked_up(orders: Vec<Order>) -> Decoder<Order> {
    Decoder::record(move |view| {
        let place = view.record.created().map_or(0, Timestamp::as_millis);
        Ok(Decoded::Record(orders[place as usize].clone()))
    })
}

fn attributes() -> Decoder<Order> {
    Decoder::item(|item| {
        let (Some(AttributeValue::S(customer)), Some(AttributeValue::N(amount))) =
            (item.get("customer"), item.get("amount"))
        else {
            return Ok(Decoded::Skip);
        };
        Ok(Decoded::Record(Order {
            customer: customer.as_str().into(),
            amount: amount.parse()?,
        }))
    })
}

/// Nanoseconds per event of one way to decode, in one mode, for every size of batch.
fn measure(criterion: &mut Criterion, name: &str, decoder: &Decoder<Order>, records: &[Record]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    for (mode, exactly_once) in [("at_least_once", false), ("exactly_once", true)] {
        let mut group = criterion.benchmark_group(format!("{name}/{mode}"));
        group.warm_up_time(Duration::from_secs(1));
        group.measurement_time(Duration::from_secs(3));
        for batch in BATCHES {
            group.throughput(Throughput::Elements(batch as u64));
            let id = BenchmarkId::from_parameter(batch);
            group.bench_function(id, |bencher| {
                let mut used = processor(decoder.clone(), exactly_once);
                let mut batches = records.chunks_exact(batch);
                bencher.iter_custom(|count| {
                    let mut spent = Duration::ZERO;
                    for _ in 0..count {
                        if batches.len() == 0 {
                            batches = records.chunks_exact(batch);
                            // Else every further event would be a duplicate.
                            if exactly_once {
                                used = processor(decoder.clone(), exactly_once);
                            }
                        }
                        let batch = batches.next().unwrap();
                        let begun = Instant::now();
                        let work = used.process(black_box(batch), Deadline::NONE);
                        black_box(runtime.block_on(work));
                        spent += begun.elapsed();
                    }
                    spent
                });
            });
        }
        group.finish();
    }
}

fn all(criterion: &mut Criterion) {
    let (orders, records) = orders(BATCHES[2]);
    measure(criterion, "processor", &looked_up(orders), &records);
    measure(criterion, "attributes", &attributes(), &records);
    measure(criterion, "serde", &Decoder::serde(), &records);
}

criterion_group!(benches, all);
criterion_main!(benches);
