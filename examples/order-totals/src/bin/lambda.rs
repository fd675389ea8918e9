//! Keeps the totals live: the function behind the stream of the orders table.

use aws_sdk_dynamodb::Client;
use murmur_core::Processor;
use murmur_lambda_ddbstreams::{Handler, run};
use order_totals::Tables;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    lambda_runtime::tracing::init_default_subscriber();
    let client = Client::new(&order_totals::aws_config().await);
    let handler = Handler::new(Processor::new(Tables::from_env()?.pipelines(&client)?)?);
    run(handler).await.map_err(anyhow::Error::from_boxed)
}
