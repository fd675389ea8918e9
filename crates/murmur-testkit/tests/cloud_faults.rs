//! Each kind of fault is what it says: applied or not, what the SDK sees, and counted.
#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]

mod cloud_support;

use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{KeysAndAttributes, Put, TransactWriteItem};
use cloud_support::*;
use futures::future::{join, join_all};
use murmur_testkit::Dynamo;
use murmur_testkit::cloud::{Cloud, Fault, Process, Weather};
use tokio::time::Instant;

/// One `ADD` in this weather: what its client sees.
async fn one_add(cloud: &Cloud, process: &Process) -> SdkError<UpdateItemError> {
    let error = add(&single(process), "k", 1).send().await.unwrap_err();
    cloud.flush().await;
    error
}

#[tokio::test(start_paused = true)]
async fn what_fails_before_is_not_applied() {
    let fail = Weather {
        fail_before: 1.0,
        ..Weather::calm()
    };
    let drop = Weather {
        drop_before: 1.0,
        ..Weather::calm()
    };
    for (weather, fault) in [(fail, Fault::FailBefore), (drop, Fault::DropBefore)] {
        let cloud = cloud(1, weather).await;
        let error = one_add(&cloud, &cloud.process()).await;
        match fault {
            Fault::FailBefore => assert_eq!(code(&error), "InternalServerError"),
            _ => assert!(
                matches!(&error, SdkError::DispatchFailure(it) if it.is_io()),
                "{error:?}"
            ),
        }
        assert_eq!(value(&cloud, "k").await, None);
        assert_eq!(cloud.met().count(fault), 1);
        assert_eq!(cloud.met().iter().map(|(_, count)| count).sum::<u64>(), 1);
        assert_eq!(cloud.usage().write_units(), 0.0);
        assert_eq!(cloud.usage().requests_of("UpdateItem"), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn what_fails_after_is_applied() {
    let fail = Weather {
        fail_after: 1.0,
        ..Weather::calm()
    };
    let drop = Weather {
        drop_after: 1.0,
        ..Weather::calm()
    };
    let hang = Weather {
        hang_after: 1.0,
        ..Weather::calm()
    };
    for (weather, fault) in [
        (fail, Fault::FailAfter),
        (drop, Fault::DropAfter),
        (hang, Fault::HangAfter),
    ] {
        let cloud = cloud(1, weather).await;
        let started = Instant::now();
        let error = one_add(&cloud, &cloud.process()).await;
        match fault {
            Fault::FailAfter => assert_eq!(code(&error), "InternalServerError"),
            Fault::DropAfter => {
                assert!(
                    matches!(&error, SdkError::DispatchFailure(it) if it.is_io()),
                    "{error:?}"
                );
            }
            _ => {
                assert!(matches!(error, SdkError::TimeoutError(_)), "{error:?}");
                assert_eq!(started.elapsed().as_secs(), 5);
            }
        }
        assert_eq!(value(&cloud, "k").await, Some(1));
        let met = cloud.met();
        assert_eq!((met.count(fault), met.count(Fault::LostAnswer)), (1, 1));
        assert_eq!(cloud.usage().plain, 1.0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_lost_to_a_refusal_is_no_lost_write() {
    let cloud = cloud(
        1,
        Weather {
            fail_after: 1.0,
            ..Weather::calm()
        },
    )
    .await;
    let client = single(&cloud.process());
    let refused = add(&client, "k", 1).condition_expression("attribute_exists(pk)");
    refused.send().await.unwrap_err();
    let met = cloud.met();
    assert_eq!(
        (met.count(Fault::FailAfter), met.count(Fault::LostAnswer)),
        (1, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn the_sdks_own_retries_count_an_add_three_times() {
    let cloud = cloud(
        1,
        Weather {
            drop_after: 1.0,
            ..Weather::calm()
        },
    )
    .await;
    let client = cloud.process().client();
    add(&client, "k", 1).send().await.unwrap_err();
    assert_eq!(value(&cloud, "k").await, Some(3));
    assert_eq!(cloud.usage().requests_of("UpdateItem"), 3);
}

#[tokio::test(start_paused = true)]
async fn a_client_without_timeouts_is_cut_off_after_an_hour() {
    let cloud = cloud(
        1,
        Weather {
            hang_after: 1.0,
            ..Weather::calm()
        },
    )
    .await;
    let started = Instant::now();
    let client = cloud.process().client();
    let error = add(&client, "k", 1).send().await.unwrap_err();
    assert!(matches!(error, SdkError::DispatchFailure(it) if it.is_io()));
    // Three attempts, an hour each.
    assert_eq!(started.elapsed().as_secs() / 3600, 3);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_request_arrives_when_its_client_is_gone() {
    let mut longest = 0;
    for seed in 0..30 {
        let cloud = cloud(
            seed,
            Weather {
                stall: 1.0,
                ..Weather::calm()
            },
        )
        .await;
        let client = single(&cloud.process());
        let started = Instant::now();
        let error = add(&client, "k", 1).send().await.unwrap_err();
        assert!(matches!(error, SdkError::TimeoutError(_)), "{error:?}");
        let early = value(&cloud, "k").await;
        cloud.flush().await;
        assert_eq!(value(&cloud, "k").await, Some(1));
        longest = longest.max(started.elapsed().as_secs());
        assert!(longest <= 15 * 60);
        // One within the five seconds of its client is rare, and no zombie to wait for.
        assert!(early.is_none() || started.elapsed() <= 5 * SECOND);
        let met = cloud.met();
        assert_eq!((met.count(Fault::Stall), met.count(Fault::Zombie)), (1, 1));
        assert_eq!(met.count(Fault::ZombieRefused), 0);
    }
    assert!(longest > 12 * 60, "the longest of 30 took {longest} s");
}

#[tokio::test(start_paused = true)]
async fn a_stalled_request_is_judged_when_it_arrives() {
    let cloud = cloud(
        1,
        Weather {
            stall: 1.0,
            ..Weather::calm()
        },
    )
    .await;
    let client = single(&cloud.process());
    let first = add(&client, "k", 1).condition_expression("attribute_not_exists(v)");
    first.send().await.unwrap_err();
    cloud.set_weather(Weather::calm());
    add(&client, "k", 10).send().await.unwrap();
    cloud.flush().await;
    assert_eq!(value(&cloud, "k").await, Some(10));
    let met = cloud.met();
    assert_eq!(
        (met.count(Fault::Zombie), met.count(Fault::ZombieRefused)),
        (0, 1)
    );
    assert_eq!(cloud.usage().refused, 1.0);
}

#[tokio::test(start_paused = true)]
async fn throttled_requests_come_in_all_of_dynamodbs_forms() {
    let mut codes = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let cloud = cloud(
            seed,
            Weather {
                throttle: 1.0,
                ..Weather::calm()
            },
        )
        .await;
        let client = single(&cloud.process());
        codes.insert(code(&add(&client, "a", 1).send().await.unwrap_err()));
        let error = add_all(&client, &["a", "b", "c"]).send().await.unwrap_err();
        let whole = error
            .as_service_error()
            .unwrap()
            .meta()
            .code()
            .unwrap()
            .to_owned();
        if whole == "TransactionCanceledException" {
            let reasons = reasons(error);
            assert_eq!(reasons.len(), 3);
            let others = reasons.iter().filter(|code| *code == "None").count();
            assert_eq!(others, 2);
            codes.extend(reasons.into_iter().map(|code| format!("reason {code}")));
        } else {
            codes.insert(format!("transaction {whole}"));
        }
        assert_eq!(value(&cloud, "a").await, None);
        assert_eq!(cloud.met().count(Fault::Throttle), 2);
        assert_eq!(cloud.usage().write_units(), 0.0);
    }
    let expected = [
        "ProvisionedThroughputExceededException",
        "ThrottlingException",
        "reason None",
        "reason ProvisionedThroughputExceeded",
        "reason ThrottlingError",
        "transaction ThrottlingException",
    ];
    assert_eq!(
        codes.iter().map(String::as_str).collect::<Vec<_>>(),
        expected
    );
}

#[tokio::test(start_paused = true)]
async fn a_throttled_batch_read_leaves_keys_unprocessed() {
    let (mut parts, mut refusals) = (0, 0);
    for seed in 0..40 {
        let cloud = cloud(seed, Weather::calm()).await;
        let client = single(&cloud.process());
        for key in ["a", "b", "c", "d"] {
            add(&client, key, 1).send().await.unwrap();
        }
        cloud.set_weather(Weather {
            throttle: 1.0,
            ..Weather::calm()
        });
        let keys = ["a", "b", "c", "d"]
            .map(|key| [("pk".to_owned(), text(key)), ("sk".to_owned(), number(0))].into());
        let keys = KeysAndAttributes::builder()
            .set_keys(Some(keys.into()))
            .consistent_read(true);
        let request = client
            .batch_get_item()
            .request_items(TABLE, keys.build().unwrap());
        match request.send().await {
            Ok(answer) => {
                let left = &answer.unprocessed_keys.unwrap()[TABLE];
                assert_eq!(left.consistent_read(), Some(true));
                let read = answer.responses.unwrap()[TABLE].len();
                assert!(read > 0 && !left.keys().is_empty());
                assert_eq!(read + left.keys().len(), 4);
                parts += 1;
            }
            Err(error) => {
                assert!(
                    error
                        .into_service_error()
                        .is_provisioned_throughput_exceeded_exception()
                );
                refusals += 1;
            }
        }
    }
    assert!(
        parts > 5 && refusals > 5,
        "{parts} parts, {refusals} refusals"
    );
}

#[tokio::test(start_paused = true)]
async fn conflicts_come_by_chance_to_writes_alone() {
    let cloud = cloud(
        1,
        Weather {
            conflict: 1.0,
            ..Weather::calm()
        },
    )
    .await;
    let client = single(&cloud.process());
    assert_eq!(
        code(&add(&client, "a", 1).send().await.unwrap_err()),
        "TransactionConflictException"
    );
    let mut struck = [0; 3];
    for _ in 0..30 {
        let error = add_all(&client, &["a", "b", "c"]).send().await.unwrap_err();
        for (nth, code) in reasons(error).iter().enumerate() {
            struck[nth] += usize::from(code == "TransactionConflict");
        }
    }
    assert_eq!(struck.iter().sum::<usize>(), 30);
    assert!(struck.iter().all(|count| *count > 0), "{struck:?}");
    let read = client
        .get_item()
        .table_name(TABLE)
        .key("pk", text("a"))
        .key("sk", number(0));
    assert_eq!(read.send().await.unwrap().item, None);
    assert_eq!(cloud.met().count(Fault::Conflict), 31);
    assert_eq!(cloud.usage().cancelled, 30.0 * 6.0);
}

#[tokio::test(start_paused = true)]
async fn a_process_dies_at_a_request_of_its_choosing() {
    let mut applied = 0;
    for seed in 0..40 {
        let cloud = cloud(seed, Weather::calm()).await;
        let process = cloud.process();
        let client = process.client();
        process.kill_after(3);
        add(&client, "k", 1).send().await.unwrap();
        add(&client, "k", 1).send().await.unwrap();
        assert!(!process.is_killed());
        tokio::select! {
            biased;
            answer = add(&client, "k", 1).send() => panic!("a dead process heard {answer:?}"),
            () = process.killed() => {}
        }
        // What a dead process still tries never leaves.
        let more = add(&client, "k", 1).send();
        assert!(tokio::time::timeout(60 * SECOND, more).await.is_err());
        assert_eq!(cloud.usage().requests_of("UpdateItem"), 3);
        let survived = value(&cloud, "k").await.unwrap() - 2;
        assert!([0, 1].contains(&survived));
        assert_eq!(cloud.met().count(Fault::Kill), 1);
        assert_eq!(
            cloud.met().count(Fault::LostAnswer),
            survived.unsigned_abs()
        );
        applied += survived;
        // Others live on.
        add(&cloud.process().client(), "k", 1).send().await.unwrap();
    }
    assert!((8..32).contains(&applied), "{applied} of 40 were applied");
}

#[tokio::test(start_paused = true)]
async fn a_request_of_a_killed_process_travels_on() {
    let slow = Weather {
        latency: 10 * MILLI..=10 * MILLI,
        ..Weather::calm()
    };
    let cloud = cloud(1, slow).await;
    let process = cloud.process();
    let client = process.client();
    let write = add(&client, "k", 1).send();
    let kill = async {
        tokio::time::sleep(MILLI).await;
        process.kill();
    };
    let unanswered = tokio::time::timeout(60 * SECOND, join(write, kill));
    assert!(unanswered.await.is_err());
    assert_eq!(value(&cloud, "k").await, Some(1));
    assert_eq!(cloud.met().count(Fault::LostAnswer), 1);
    process.kill();
    assert_eq!(cloud.met().count(Fault::Kill), 1);
}

#[tokio::test(start_paused = true)]
async fn latency_is_time_there_and_back() {
    let slow = Weather {
        latency: 10 * MILLI..=20 * MILLI,
        ..Weather::calm()
    };
    let cloud = cloud(1, slow).await;
    let client = cloud.process().client();
    let mut times = Vec::new();
    for _ in 0..20 {
        let started = Instant::now();
        add(&client, "k", 1).send().await.unwrap();
        times.push(started.elapsed());
    }
    assert!(
        times
            .iter()
            .all(|time| (20 * MILLI..=42 * MILLI).contains(time)),
        "{times:?}"
    );
    assert!(times.iter().any(|time| *time != times[0]), "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_too_late_is_a_lost_one() {
    let slow = Weather {
        latency: 4 * SECOND..=4 * SECOND,
        ..Weather::calm()
    };
    let cloud = cloud(1, slow).await;
    // Eight seconds there and back, five to wait.
    let error = one_add(&cloud, &cloud.process()).await;
    assert!(matches!(error, SdkError::TimeoutError(_)));
    assert_eq!(value(&cloud, "k").await, Some(1));
    assert_eq!(cloud.met().count(Fault::LostAnswer), 1);
}

#[tokio::test(start_paused = true)]
async fn a_rewriter_leaves_a_rule_out() {
    let cloud = cloud(1, Weather::calm()).await;
    let (careful, careless) = (cloud.process(), cloud.process());
    let once = |process: &Process| {
        let request = add(&process.client(), "k", 1);
        request
            .condition_expression("attribute_not_exists(v)")
            .send()
    };
    careless.rewrite(|request| {
        if let Some(condition) = request.body["ConditionExpression"].as_str() {
            let always =
                condition.replace("attribute_not_exists(v)", "attribute_not_exists(nothing)");
            request.body["ConditionExpression"] = always.into();
        }
    });
    once(&careful).await.unwrap();
    once(&careful).await.unwrap_err();
    once(&careless).await.unwrap();
    assert_eq!(value(&cloud, "k").await, Some(2));

    // On the whole cloud, after the process's own; the admin is left alone.
    cloud.rewrite(|request| {
        request.body["ExpressionAttributeValues"][":v"]["N"] = "100".into();
    });
    once(&careless).await.unwrap();
    assert_eq!(value(&cloud, "k").await, Some(102));
    add(&cloud.admin(), "k", 1).send().await.unwrap();
    assert_eq!(value(&cloud, "k").await, Some(103));
}

/// A run with everything in it, and what it left.
async fn run(seed: u64) -> (String, Vec<Option<i64>>) {
    fastrand::seed(seed);
    let cloud = cloud(seed, Weather::storm()).await;
    let processes: Vec<Process> = (0..4).map(|_| cloud.process()).collect();
    processes[3].kill_after(20);
    let work = processes.iter().enumerate().map(async |(nth, process)| {
        let client = single(process);
        let work = async {
            for turn in 0..30 {
                let keys = [(turn * 7 + nth) % 5, (turn + nth) % 5].map(|key| format!("k{key}"));
                let _ = add(&client, &keys[0], 1).send().await;
                if keys[0] != keys[1] {
                    let keys = keys.each_ref().map(String::as_str);
                    let _ = add_all(&client, &keys).send().await;
                }
            }
        };
        tokio::select! { () = work => {}, () = process.killed() => {} }
    });
    join_all(work).await;
    cloud.flush().await;
    let keys = ["k0", "k1", "k2", "k3", "k4"];
    let values = join_all(keys.map(|key| value(&cloud, key))).await;
    (format!("{} {:?}", cloud.met(), cloud.usage()), values)
}

#[tokio::test(start_paused = true)]
async fn a_run_repeats_itself() {
    for seed in 0..5 {
        assert_eq!(run(seed).await, run(seed).await);
    }
    assert_ne!(run(1).await, run(2).await);
}

#[tokio::test(start_paused = true)]
async fn a_storm_meets_every_kind_of_fault() {
    let mut seen = String::new();
    for seed in 0..5 {
        seen = run(seed).await.0;
        for part in [
            "FailBefore",
            "HangAfter",
            "Stall",
            "HeldConflict",
            "LostAnswer",
        ] {
            assert!(!seen.contains(&format!("{part} 0")), "seed {seed}: {seen}");
        }
    }
    assert!(seen.contains("Kill 1"), "{seen}");
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "the rates of a weather")]
async fn rates_beyond_one_are_refused() {
    Cloud::in_process(
        1,
        Weather {
            stall: 0.6,
            throttle: 0.6,
            ..Weather::calm()
        },
    );
}

/// A cloud over a server, real or embedded, with a table of its own.
async fn over(weather: Weather) -> (Cloud, String) {
    let dynamo = Dynamo::connect().await;
    let table = dynamo.table("cloud");
    let cloud = Cloud::over(&dynamo, 1, weather);
    create(&cloud.admin(), &table).await;
    (cloud, table)
}

async fn value_in(cloud: &Cloud, table: &str, key: &str) -> Option<i64> {
    let get = cloud
        .admin()
        .get_item()
        .table_name(table)
        .consistent_read(true);
    let get = get.key("pk", text(key)).key("sk", number(0));
    let item = get.send().await.unwrap().item?;
    Some(item["v"].as_n().unwrap().parse().unwrap())
}

#[tokio::test]
async fn over_a_server_nothing_waits() {
    let (cloud, table) = over(Weather {
        hang_after: 1.0,
        ..Weather::calm()
    })
    .await;
    let client = single(&cloud.process());
    let error = add(&client, "k", 1)
        .table_name(&table)
        .send()
        .await
        .unwrap_err();
    assert!(
        matches!(&error, SdkError::DispatchFailure(it) if it.is_timeout()),
        "{error:?}"
    );
    assert_eq!(value_in(&cloud, &table, "k").await, Some(1));
    assert_eq!(cloud.met().count(Fault::LostAnswer), 1);
}

#[tokio::test]
async fn over_a_server_a_stalled_request_is_overtaken() {
    let (cloud, table) = over(Weather {
        stall: 1.0,
        ..Weather::calm()
    })
    .await;
    let client = single(&cloud.process());
    let error = add(&client, "k", 1)
        .table_name(&table)
        .send()
        .await
        .unwrap_err();
    assert!(
        matches!(&error, SdkError::DispatchFailure(it) if it.is_timeout()),
        "{error:?}"
    );
    assert_eq!(value_in(&cloud, &table, "k").await, None);
    cloud.set_weather(Weather::calm());
    let mut overtaken_by = 0;
    while value_in(&cloud, &table, "k").await.is_none() {
        add(&client, "other", 1)
            .table_name(&table)
            .send()
            .await
            .unwrap();
        overtaken_by += 1;
        assert!(overtaken_by <= 64);
    }
    assert_eq!(cloud.met().count(Fault::Zombie), 1);

    cloud.set_weather(Weather {
        stall: 1.0,
        ..Weather::calm()
    });
    add(&client, "k", 1)
        .table_name(&table)
        .send()
        .await
        .unwrap_err();
    cloud.flush().await;
    assert_eq!(value_in(&cloud, &table, "k").await, Some(2));
    assert_eq!(cloud.met().count(Fault::Zombie), 2);
}

#[tokio::test]
async fn over_a_server_faults_are_the_same() {
    for (weather, fault, left) in [
        (
            Weather {
                fail_before: 1.0,
                ..Weather::calm()
            },
            Fault::FailBefore,
            None,
        ),
        (
            Weather {
                drop_after: 1.0,
                ..Weather::calm()
            },
            Fault::DropAfter,
            Some(1),
        ),
        (
            Weather {
                conflict: 1.0,
                ..Weather::calm()
            },
            Fault::Conflict,
            None,
        ),
        (
            Weather {
                throttle: 1.0,
                ..Weather::calm()
            },
            Fault::Throttle,
            None,
        ),
    ] {
        let (cloud, table) = over(weather).await;
        let client = single(&cloud.process());
        add(&client, "k", 1)
            .table_name(&table)
            .send()
            .await
            .unwrap_err();
        assert_eq!(value_in(&cloud, &table, "k").await, left, "{fault:?}");
        assert_eq!(cloud.met().count(fault), 1);
    }
}

#[tokio::test]
#[should_panic(expected = "a limit per second needs a cloud in this process")]
async fn a_limit_per_second_is_refused_over_a_server() {
    let dynamo = Dynamo::at("http://localhost:1");
    let limited = Weather {
        partition_limit: Some(1000.0),
        ..Weather::calm()
    };
    Cloud::over(&dynamo, 1, limited);
}

#[tokio::test(start_paused = true)]
async fn a_put_is_struck_like_an_update() {
    let cloud = cloud(
        1,
        Weather {
            fail_after: 1.0,
            ..Weather::calm()
        },
    )
    .await;
    let client = single(&cloud.process());
    let put = Put::builder()
        .table_name(TABLE)
        .item("pk", text("k"))
        .item("sk", number(0));
    let put = TransactWriteItem::builder().put(put.item("v", number(7)).build().unwrap());
    let put = client.transact_write_items().transact_items(put.build());
    put.send().await.unwrap_err();
    assert_eq!(value(&cloud, "k").await, Some(7));
    assert_eq!(cloud.met().count(Fault::LostAnswer), 1);
}

#[tokio::test(start_paused = true)]
async fn a_spell_strikes_every_request_until_it_is_over() {
    let of = |unsigned, refused, misfit| Weather {
        unsigned,
        refused,
        misfit,
        spell_for: MINUTE..=MINUTE,
        ..Weather::calm()
    };
    for (weather, fault) in [
        (of(1.0, 0.0, 0.0), Fault::Unsigned),
        (of(0.0, 1.0, 0.0), Fault::Refused),
        (of(0.0, 0.0, 1.0), Fault::Misfit),
    ] {
        let cloud = cloud(1, weather).await;
        let (process, other) = (cloud.process(), cloud.process());
        let client = single(&process);
        // What is signed already is sent all the same.
        let first = add(&client, "k", 1).send().await;
        assert_eq!(first.is_ok(), fault == Fault::Unsigned, "{fault:?}");
        for _ in 0..4 {
            let error = add(&client, "k", 1).send().await.unwrap_err();
            match fault {
                Fault::Unsigned => {
                    assert!(matches!(error, SdkError::DispatchFailure(_)), "{error:?}");
                }
                Fault::Refused => assert!(
                    ["ExpiredTokenException", "UnrecognizedClientException"]
                        .contains(&code(&error).as_str()),
                    "{error:?}"
                ),
                _ => assert_eq!(code(&error), "ValidationException"),
            }
        }
        let struck = cloud.met().count(fault);
        assert_eq!(struck, 4 + u64::from(first.is_err()), "{fault:?}");
        assert_eq!(
            cloud.usage().write_units(),
            f64::from(u8::from(first.is_ok()))
        );
        // It goes with its weather, at all processes.
        cloud.set_weather(Weather::calm());
        for process in [&process, &other] {
            add(&single(process), "k", 1).send().await.unwrap();
        }
        assert_eq!(cloud.met().count(fault), struck);
    }
}

const MINUTE: std::time::Duration = std::time::Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn a_read_sees_what_was_a_moment_ago_unless_it_asks_for_a_consistent_answer() {
    let weather = Weather {
        stale: 1.0,
        stale_for: 2 * SECOND..=2 * SECOND,
        ..Weather::calm()
    };
    let cloud = cloud(1, weather).await;
    let client = single(&cloud.process());
    let read = async |consistent: bool| {
        let get = client
            .get_item()
            .table_name(TABLE)
            .key("pk", text("k"))
            .key("sk", number(0));
        let alone = get.consistent_read(consistent).send().await.unwrap().item;
        let keys = KeysAndAttributes::builder()
            .keys([("pk".to_owned(), text("k")), ("sk".to_owned(), number(0))].into())
            .consistent_read(consistent);
        let batch = client.batch_get_item();
        let batch = batch.request_items(TABLE, keys.build().unwrap());
        let found = batch.send().await.unwrap().responses.unwrap();
        let together = found[TABLE].first().cloned();
        let value =
            |item: Option<std::collections::HashMap<_, _>>| item.map(|mut item| item.remove("v"));
        [value(alone), value(together)].map(Option::flatten)
    };
    let (one, two) = (Some(number(1)), Some(number(3)));
    tokio::time::sleep(3 * SECOND).await;
    add(&client, "k", 1).send().await.unwrap();
    assert_eq!(read(false).await, [None, None], "as if it were not there");
    assert_eq!(read(true).await, [one.clone(), one.clone()]);
    tokio::time::sleep(3 * SECOND).await;
    assert_eq!(read(false).await, [one.clone(), one.clone()]);
    add(&client, "k", 2).send().await.unwrap();
    assert_eq!(read(false).await, [one.clone(), one]);
    assert_eq!(read(true).await, [two.clone(), two]);
    assert_eq!(cloud.met().count(Fault::Stale), 4);
}
