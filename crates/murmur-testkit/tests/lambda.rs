//! A real process with the real Lambda runtime, fed by the emulator.

use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lambda_runtime::{Error, LambdaEvent, service_fn};
use murmur_testkit::lambda::{InvocationError, RuntimeApi};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

const LONG: Duration = Duration::from_secs(60);

async fn function(event: LambdaEvent<Value>) -> Result<Value, Error> {
    match event.payload["do"].as_str() {
        Some("fail") => Err("told to fail".into()),
        Some("hang") => std::future::pending().await,
        _ => Ok(json!({
            "echo": event.payload,
            "id": event.context.request_id,
            "deadline": event.context.deadline,
            "arn": event.context.invoked_function_arn,
        })),
    }
}

/// The Lambda process of the other tests: this test binary, told by its environment to be one.
#[tokio::test]
async fn as_a_lambda_process() {
    if std::env::var_os("AWS_LAMBDA_RUNTIME_API").is_some() {
        let _ = lambda_runtime::run(service_fn(function)).await;
    }
}

fn start_process(api: &RuntimeApi) -> Result<Child, std::io::Error> {
    Command::new(std::env::current_exe()?)
        .args(["--exact", "as_a_lambda_process"])
        .envs(api.env())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
}

#[tokio::test]
async fn a_process_answers_one_event_after_the_other() {
    let api = RuntimeApi::start().await;
    let _process = start_process(&api).unwrap();
    for n in 0..3 {
        let answer = api.invoke(json!({ "n": n }), LONG).await.unwrap();
        assert_eq!(answer["echo"], json!({ "n": n }));
    }
}

#[tokio::test]
async fn invocations_at_once_get_their_own_answers() {
    let api = RuntimeApi::start().await;
    let _process = start_process(&api).unwrap();
    let (one, other) = tokio::join!(
        api.invoke(json!("one"), LONG),
        api.invoke(json!("other"), LONG)
    );
    assert_eq!(one.unwrap()["echo"], "one");
    assert_eq!(other.unwrap()["echo"], "other");
}

#[tokio::test]
async fn the_context_is_that_of_a_real_invocation() {
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_millis() as u64
    };
    let api = RuntimeApi::start().await;
    let _process = start_process(&api).unwrap();
    let before = now();
    let answer = api.invoke(json!({}), LONG).await.unwrap();
    let deadline = answer["deadline"].as_u64().unwrap() - LONG.as_millis() as u64;
    assert!(
        (before..=now()).contains(&deadline),
        "the deadline counts from the hand-over"
    );
    assert_eq!(answer["id"].as_str().unwrap().len(), 36);
    assert!(
        answer["arn"]
            .as_str()
            .unwrap()
            .starts_with("arn:aws:lambda:")
    );
}

#[tokio::test]
async fn a_function_that_fails_is_an_error_with_its_message_and_may_be_invoked_again() {
    let api = RuntimeApi::start().await;
    let _process = start_process(&api).unwrap();
    let error = api.invoke(json!({ "do": "fail" }), LONG).await.unwrap_err();
    assert!(
        matches!(&error, InvocationError::Function { message, .. } if message == "told to fail"),
        "{error:?}"
    );
    api.invoke(json!({}), LONG).await.unwrap();
}

#[tokio::test]
async fn a_function_that_hangs_passes_its_deadline() {
    let api = RuntimeApi::start().await;
    let _process = start_process(&api).unwrap();
    let error = api
        .invoke(json!({ "do": "hang" }), Duration::ZERO)
        .await
        .unwrap_err();
    assert!(
        matches!(error, InvocationError::DeadlinePassed(Duration::ZERO)),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_event_that_no_process_takes_is_an_error() {
    let api = RuntimeApi::start().await;
    let error = api.invoke(json!({}), LONG).await.unwrap_err();
    assert!(matches!(error, InvocationError::NotPolled), "{error:?}");
}
