//! The clones of a processor for operations such as a bootstrap.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use murmur_core::{Processor, ProcessorBuilder, Sum};
use murmur_state::{Deadline, MemoryStore, Outage, RetryPolicy};

use crate::support::{Order, clock, unavailable};
use crate::{builder, outcomes, totals, undecodable};

type Log = Arc<Mutex<Vec<String>>>;

fn plain() -> ProcessorBuilder<Order> {
    let store = MemoryStore::new(Sum::new());
    builder(totals(store).at_least_once().unwrap()).0
}

#[test]
fn it_follows_its_own_policy_unless_one_was_chosen() {
    let processor = plain().build().unwrap();
    let patient = processor.or_retry(RetryPolicy::patient());
    assert_eq!(*patient.retry().policy(), RetryPolicy::patient());
    assert_eq!(*processor.retry().policy(), RetryPolicy::default());
    let chosen = RetryPolicy::default().max_attempts(7);
    let processor = plain().retry(chosen).build().unwrap();
    let patient = processor.or_retry(RetryPolicy::patient());
    assert_eq!(*patient.retry().policy(), chosen);
}

#[test]
fn stopping_it_stops_nothing_else() {
    let clock = clock();
    let processor = plain().clock(Arc::new(clock.clone())).build().unwrap();
    let own = processor.or_retry(RetryPolicy::patient());
    own.retry().stop();
    clock.advance(Duration::from_secs(60));
    assert!(own.retry().is_stopped());
    assert!(!processor.retry().is_stopped());
}

async fn outage(processor: &Processor<Order>) {
    let fails = || async { Err::<(), _>(unavailable(false)) };
    let failed = processor.retry().run(Deadline::NONE, |_| (), fails).await;
    failed.unwrap_err();
}

#[tokio::test]
async fn its_outages_are_told_to_it_and_to_the_processors_own_listener() {
    let (first, second) = (Log::default(), Log::default());
    let listener = |name: &'static str, log: &Log| {
        let log = Arc::clone(log);
        move |_: &Outage<'_>| log.lock().unwrap().push(name.to_owned())
    };
    let processor = plain()
        .retry(RetryPolicy::patient().budget(Duration::from_secs(120)))
        .on_outage(listener("first", &first))
        .build()
        .unwrap();
    let own = processor.and_on_outage(listener("second", &second));
    outage(&own).await;
    let (told, own_told) = (first.lock().unwrap().len(), second.lock().unwrap().len());
    assert!(told > 0);
    assert_eq!(told, own_told);
    outage(&processor).await;
    assert!(first.lock().unwrap().len() > told);
    assert_eq!(second.lock().unwrap().len(), own_told);
}

#[tokio::test]
async fn it_passes_over_what_no_callback_refuses_and_hears_of_it() {
    for (callback, passed_over) in [(None, true), (Some(true), true), (Some(false), false)] {
        let (asked, heard) = (Log::default(), Log::default());
        let mut builder = plain();
        if let Some(takes) = callback {
            let asked = Arc::clone(&asked);
            builder = builder.on_rejected(move |rejected| {
                let id = rejected.record.event_id().to_owned();
                asked.lock().unwrap().push(id);
                async move {
                    if takes {
                        Ok(())
                    } else {
                        Err("queue is full".into())
                    }
                }
            });
        }
        let processor = builder.build().unwrap();
        let log = Arc::clone(&heard);
        let own = processor.passing_over(move |rejected| {
            let id = rejected.record.event_id().to_owned();
            log.lock().unwrap().push(id);
        });
        let outcome = outcomes(&own, &[undecodable("bad")]).await.remove(0);
        assert_eq!(outcome.is_done(), passed_over, "{callback:?}");
        assert_eq!(asked.lock().unwrap().len(), usize::from(callback.is_some()));
        assert_eq!(heard.lock().unwrap().len(), usize::from(passed_over));
        // The processor itself is unchanged.
        let outcome = outcomes(&processor, &[undecodable("bad")]).await.remove(0);
        assert_eq!(outcome.is_done(), callback == Some(true), "{callback:?}");
        assert_eq!(heard.lock().unwrap().len(), usize::from(passed_over));
    }
}
