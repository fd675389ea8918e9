//! What each failure of the service becomes.

use std::error::Error;

use aws_credential_types::credential_fn::provide_credentials_fn;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::config::{BehaviorVersion, Region};
use aws_sdk_dynamodb::error::{ConnectorError, SdkError};
use murmur_state::{Deadline, Fault, Outcome, ReadExt, Store, StoreError};
use murmur_state_ddb::{Deduper, Int64SumStore};
use murmur_testkit::Dynamo;
use murmur_testkit::wire::Action;

use crate::support::{Total, add, key, marker_table, state_table, wire_on};

async fn failure(store: &Int64SumStore) -> StoreError {
    let adds = [add("customer-7", 1)];
    match Store::<Total>::merge(store, &adds, Deadline::NONE)
        .await
        .pop()
    {
        Some(Outcome::Failed(error)) => error,
        other => panic!("{other:?}"),
    }
}

async fn failure_after(dynamo: &Dynamo, action: Action) -> StoreError {
    let wire = wire_on("UpdateItem", move |_| action.clone());
    failure(&Int64SumStore::new(wire.client(dynamo), "totals")).await
}

#[tokio::test]
async fn refusals_become_what_the_caller_can_do() {
    use Fault::{Contention, Record, Setup, Transient};
    let dynamo = Dynamo::connect().await;
    let cases = [
        (
            "ProvisionedThroughputExceededException",
            "",
            Contention,
            "throttled",
        ),
        ("ThrottlingException", "", Contention, "throttled"),
        ("RequestLimitExceeded", "", Contention, "throttled"),
        ("LimitExceededException", "", Contention, "throttled"),
        (
            "TransactionConflictException",
            "",
            Contention,
            "another writer",
        ),
        (
            "ReplicatedWriteConflictException",
            "",
            Contention,
            "another writer",
        ),
        ("ResourceInUseException", "", Transient, "request failed"),
        ("ResourceNotFoundException", "", Setup, "create the table"),
        (
            "AccessDeniedException",
            "not authorized to perform X",
            Setup,
            "grant the actions",
        ),
        ("UnrecognizedClientException", "", Setup, "renew"),
        ("ExpiredTokenException", "", Transient, "request failed"),
        (
            "TransactionInProgressException",
            "",
            Contention,
            "another writer",
        ),
        (
            "IdempotentParameterMismatchException",
            "",
            Contention,
            "another writer",
        ),
        ("InvalidSignatureException", "", Setup, "region"),
        (
            "MissingAuthenticationTokenException",
            "",
            Setup,
            "credentials",
        ),
        (
            "ItemCollectionSizeLimitExceededException",
            "",
            Setup,
            "10 GB",
        ),
        (
            "ValidationException",
            "Item size to update has exceeded the maximum allowed size",
            Setup,
            "400 KB",
        ),
        (
            "ValidationException",
            "The provided key element does not match the schema",
            Setup,
            "another key schema",
        ),
        (
            "ValidationException",
            "One or more parameter values were invalid: Type mismatch for key sk",
            Setup,
            "another key schema",
        ),
        // Proven bad, in the texts of DynamoDB, DynamoDB Local and the embedded server.
        (
            "ValidationException",
            "Number overflow. Attempting to store a number with magnitude larger than supported \
             range",
            Record,
            "Number overflow",
        ),
        (
            "ValidationException",
            "Number underflow. Attempting to store a number with magnitude smaller than supported \
             range",
            Record,
            "Number underflow",
        ),
        (
            "ValidationException",
            "Attempting to store more than 38 significant digits in a Number",
            Record,
            "38 significant digits",
        ),
        (
            "ValidationException",
            "One or more parameter values were invalid: Size of hashkey has exceeded the maximum \
             size limit of2048 bytes",
            Record,
            "2048 bytes",
        ),
        (
            "ValidationException",
            "One or more parameter values are not valid. The AttributeValue for a key attribute \
             cannot contain an empty string value. Key: pk",
            Record,
            "empty string",
        ),
        // Anything else is refused for every record.
        (
            "ValidationException",
            "1 validation error detected: Value 'bad table ${Totals}' at 'tableName' failed to \
             satisfy constraint: Member must satisfy regular expression pattern: [a-zA-Z0-9_.-]+",
            Setup,
            "check the table's name",
        ),
        (
            "ValidationException",
            "One or more parameter values are not valid. A value specified for a secondary index \
             key is not supported. The AttributeValue for a key attribute cannot contain an empty \
             string value. IndexName: i, IndexKey: v",
            Setup,
            "IndexName",
        ),
        ("ValidationException", "", Setup, "for every record"),
        ("SerializationException", "", Setup, "for every record"),
        ("SomethingNew", "nobody knows", Setup, "nobody knows"),
    ];
    for (code, message, fault, text) in cases {
        let error = failure_after(&dynamo, Action::error(400, code, message)).await;
        let shown = error.to_string();
        assert_eq!(error.fault(), fault, "{code}: {shown}");
        assert!(shown.contains(text), "{code}: {shown}");
        assert!(
            shown.contains("`totals`") && shown.contains("customer-7"),
            "{shown}"
        );
        assert!(
            !matches!(
                error,
                StoreError::Unavailable {
                    may_have_applied: true,
                    ..
                }
            ),
            "{code}"
        );
        if !matches!(error, StoreError::RowTooLarge { .. }) {
            assert!(error.source().is_some(), "{code} keeps its source");
        }
    }
}

#[tokio::test]
async fn after_a_server_error_or_a_broken_answer_nobody_knows() {
    let dynamo = Dynamo::connect().await;
    for action in [
        Action::error(500, "InternalServerError", ""),
        Action::error(503, "ServiceUnavailable", ""),
        Action::Answer {
            status: 502,
            body: "<html>".to_owned(),
        },
        Action::Answer {
            status: 200,
            body: "{ broken".to_owned(),
        },
        Action::DropBefore,
    ] {
        let error = failure_after(&dynamo, action.clone()).await;
        assert!(
            matches!(
                error,
                StoreError::Unavailable {
                    may_have_applied: true,
                    ..
                }
            ),
            "{action:?}: {error:?}"
        );
        assert!(error.source().is_some());
    }
}

#[tokio::test]
async fn a_connection_that_was_never_made_applied_nothing() {
    let dynamo = Dynamo::connect().await;
    // A port that was free a moment ago, and a name that cannot be resolved.
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    for endpoint in [
        format!("http://127.0.0.1:{port}"),
        "http://dynamodb.invalid".to_owned(),
    ] {
        let config = dynamo.client_config().endpoint_url(&endpoint);
        let store = Int64SumStore::new(
            aws_sdk_dynamodb::Client::from_conf(config.build()),
            "totals",
        );
        let error = failure(&store).await;
        assert!(
            matches!(
                error,
                StoreError::Unavailable {
                    may_have_applied: false,
                    ..
                }
            ),
            "{endpoint}: {error:?}"
        );
    }
}

#[tokio::test]
async fn a_missing_table_is_a_matter_of_set_up() {
    let dynamo = Dynamo::connect().await;
    let store = Int64SumStore::new(dynamo.client(), dynamo.table("missing"));
    for error in [
        failure(&store).await,
        store.get(&key("k")).await.unwrap_err(),
    ] {
        assert_eq!(error.fault(), Fault::Setup);
        assert!(error.to_string().contains("create the table"), "{error}");
    }
}

#[tokio::test]
async fn a_table_with_other_keys_is_a_matter_of_set_up() {
    let dynamo = Dynamo::connect().await;
    let markers = marker_table(&dynamo).await;
    let store = Int64SumStore::new(dynamo.client(), &*markers);
    for error in [
        failure(&store).await,
        store.get(&key("k")).await.unwrap_err(),
    ] {
        assert_eq!(error.fault(), Fault::Setup, "{error:?}");
        assert!(error.to_string().contains(&markers), "{error}");
    }
    let deduper = Deduper::new(dynamo.client(), state_table(&dynamo).await);
    let owner = murmur_state::Owner::new(&murmur_state::Tokens::new()).unwrap();
    let claim = murmur_state::Deduper::claim(&deduper, "id", &owner, Deadline::NONE).await;
    assert_eq!(claim.unwrap_err().fault(), Fault::Setup);
}

#[tokio::test]
async fn a_client_without_credentials_or_region_is_a_matter_of_set_up() {
    let dynamo = Dynamo::connect().await;
    let bare = || {
        aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(murmur_testkit::wire::Wire::calm())
    };
    let no_credentials = bare()
        .region(Region::new("eu-west-1"))
        .endpoint_url(dynamo.endpoint());
    for config in [no_credentials.build(), bare().build()] {
        let store = Int64SumStore::new(aws_sdk_dynamodb::Client::from_conf(config), "totals");
        let error = failure(&store).await;
        assert!(matches!(error, StoreError::Setup { .. }), "{error:?}");
        assert!(error.to_string().contains("credentials"), "{error}");
    }
}

#[tokio::test]
async fn credentials_that_fail_to_load_pass_and_those_that_are_missing_do_not() {
    type Fails = fn() -> CredentialsError;
    let cases: [(Fails, Fault); 7] = [
        (
            || CredentialsError::provider_timed_out(std::time::Duration::from_secs(5)),
            Fault::Transient,
        ),
        (
            || CredentialsError::provider_error("503 from STS"),
            Fault::Transient,
        ),
        // How the provider of container credentials reports that its endpoint cannot be reached.
        (
            || {
                let refused = ConnectorError::io("connection refused".into());
                let call: SdkError<CredentialsError, HttpResponse> =
                    SdkError::dispatch_failure(refused);
                CredentialsError::unhandled(call)
            },
            Fault::Transient,
        ),
        (CredentialsError::not_loaded_no_source, Fault::Setup),
        (
            || CredentialsError::not_loaded("no providers in chain provided credentials"),
            Fault::Setup,
        ),
        (
            || CredentialsError::invalid_configuration("a profile that assumes itself"),
            Fault::Setup,
        ),
        (|| CredentialsError::unhandled("not UTF-8"), Fault::Setup),
    ];
    let dynamo = Dynamo::connect().await;
    for (fails, fault) in cases {
        let provider = provide_credentials_fn(move || async move { Err(fails()) });
        let config = dynamo.client_config().credentials_provider(provider);
        let client = aws_sdk_dynamodb::Client::from_conf(config.build());
        let error = failure(&Int64SumStore::new(client, "totals")).await;
        assert_eq!(error.fault(), fault, "{:?}", fails());
        assert!(
            !matches!(
                error,
                StoreError::Unavailable {
                    may_have_applied: true,
                    ..
                }
            ),
            "{:?}",
            fails()
        );
    }
}
