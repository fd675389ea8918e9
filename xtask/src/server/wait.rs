//! Finds free ports, and waits for servers.

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use murmur_testkit::ENDPOINT_VAR;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::process;

/// How long a server that we start may take to answer, without the download of a container's image.
const START: Duration = Duration::from_secs(60);

/// How long a running server may take to answer.
const ANSWER: Duration = Duration::from_secs(2);

/// A free port of 127.0.0.1.
pub(super) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    Ok(listener.local_addr()?.port())
}

pub(super) fn endpoint(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// Waits until an HTTP server answers on `port`. Cancel safe.
pub(super) async fn until_it_answers(port: u16) -> Result<()> {
    let address = format!("127.0.0.1:{port}");
    let answer = async {
        while !answers(&address).await {
            sleep(Duration::from_millis(50)).await;
        }
    };
    let answer = process::telling(
        "waiting for DynamoDB Local to answer",
        timeout(START, answer),
    );
    answer
        .await
        .with_context(|| format!("no answer on port {port} within {START:?}"))
}

/// Checks that the server at the given URL answers. A server with TLS is not checked. Cancel safe.
pub(super) async fn for_given(url: &str) -> Result<()> {
    if url.starts_with("https://") {
        return Ok(());
    }
    let Some(host) = url
        .strip_prefix("http://")
        .and_then(|rest| rest.split('/').next())
    else {
        bail!("{ENDPOINT_VAR} is {url}: a URL like http://127.0.0.1:8000 is needed");
    };
    let address = if host.contains(':') {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    if !answers(&address).await {
        bail!("{ENDPOINT_VAR} is {url}, where nothing answers: start it, or unset the variable");
    }
    Ok(())
}

/// Whether an HTTP server answers there. DynamoDB answers a bare `GET` with an error, which is
/// enough.
async fn answers(address: &str) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut head = [0; 5];
        stream.read_exact(&mut head).await?;
        std::io::Result::Ok(&head == b"HTTP/")
    };
    matches!(timeout(ANSWER, ask).await, Ok(Ok(true)))
}
