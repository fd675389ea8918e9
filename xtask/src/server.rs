//! Chooses, starts and stops the DynamoDB of the integration tests.

mod compose;
mod java;
mod wait;

use std::env;
use std::fmt;

use anyhow::{Result, bail};
use murmur_testkit::ENDPOINT_VAR;

use crate::{process, workspace};

/// The version of DynamoDB Local, as a Maven artifact and as a Docker image. It is the newest whose
/// Maven dependencies all resolve.
const VERSION: &str = "3.1.0";

/// The flags of DynamoDB Local, except for the port.
const FLAGS: [&str; 2] = ["-inMemory", "-disableTelemetry"];

/// How the tests reach a DynamoDB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Way {
    /// A running server, by its URL. It is neither started nor stopped.
    Given(String),
    /// DynamoDB Local in a container.
    Compose,
    /// DynamoDB Local from Maven, run with Java.
    Java,
    /// No server: every test starts an embedded one. The field has the reasons.
    Embedded(String),
}

/// What is available on this machine; an `Err` has the reason why not.
#[derive(Debug)]
pub(crate) struct Found {
    endpoint: Option<String>,
    docker: Result<(), String>,
    java: Result<(), String>,
    ci: bool,
}

impl Found {
    /// Checks what is available. The search stops at the first usable one.
    pub(crate) async fn look() -> Self {
        let endpoint = env::var(ENDPOINT_VAR).ok().filter(|url| !url.is_empty());
        let mut found = Self {
            endpoint,
            docker: Err("not looked for".into()),
            java: Err("not looked for".into()),
            ci: workspace::on_ci(),
        };
        if found.endpoint.is_none() {
            found.docker = process::telling("asking docker", compose::usable()).await;
            if found.docker.is_err() {
                found.java = process::telling("asking java and mvn", java::usable()).await;
            }
        }
        found
    }
}

/// Chooses the best of the available ways.
///
/// # Errors
///
/// If only the embedded server is left on a build server: the tests must not pass there without a
/// real DynamoDB Local.
pub(crate) fn choose(found: &Found) -> Result<Way> {
    if let Some(endpoint) = &found.endpoint {
        return Ok(Way::Given(endpoint.clone()));
    }
    let Err(no_docker) = &found.docker else {
        return Ok(Way::Compose);
    };
    let Err(no_java) = &found.java else {
        return Ok(Way::Java);
    };
    let reasons = format!("docker: {no_docker}; java: {no_java}");
    if found.ci {
        bail!(
            "CI=true, and no DynamoDB Local for the tests: set {ENDPOINT_VAR}, or install docker \
             with compose, or Java 17 and Maven ({reasons})"
        );
    }
    Ok(Way::Embedded(reasons))
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(_) => write!(f, "using the DynamoDB that {ENDPOINT_VAR} names"),
            Self::Compose => write!(f, "DynamoDB Local {VERSION} by docker compose"),
            Self::Java => write!(f, "DynamoDB Local {VERSION} by Java"),
            Self::Embedded(reasons) => write!(
                f,
                "NOTICE: no DynamoDB Local, the tests use the embedded DynamoDB, which shows \
                 less. Set {ENDPOINT_VAR}, or install docker with compose, or Java 17 and Maven \
                 ({reasons})"
            ),
        }
    }
}

/// A DynamoDB that runs for as long as this value exists.
pub(crate) struct Server {
    endpoint: Option<String>,
    _running: Running,
}

/// The process or container that is stopped when this is dropped.
enum Running {
    Nothing,
    Compose { _container: compose::Container },
    Java { _process: process::Group },
}

impl Server {
    /// Starts the server and waits until it answers. Cancel safe: the server is stopped.
    ///
    /// # Errors
    ///
    /// If the server does not start, or if it does not answer in time; the latter also for a given
    /// server.
    pub(crate) async fn start(way: Way) -> Result<Self> {
        let (endpoint, running) = match way {
            Way::Embedded(_) => {
                return Ok(Self {
                    endpoint: None,
                    _running: Running::Nothing,
                });
            }
            Way::Given(endpoint) => {
                wait::for_given(&endpoint).await?;
                (endpoint, Running::Nothing)
            }
            Way::Compose => {
                let port = wait::free_port()?;
                let container = compose::Container::start("docker".as_ref(), port).await?;
                (
                    wait::endpoint(port),
                    Running::Compose {
                        _container: container,
                    },
                )
            }
            Way::Java => {
                let port = wait::free_port()?;
                let process = java::start(port).await?;
                (wait::endpoint(port), Running::Java { _process: process })
            }
        };
        Ok(Self {
            endpoint: Some(endpoint),
            _running: running,
        })
    }

    /// The URL of the server; `None` for embedded ones.
    pub(crate) fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO: Result<(), &str> = Err("none here");

    fn found(
        endpoint: Option<&str>,
        docker: Result<(), &str>,
        java: Result<(), &str>,
        ci: bool,
    ) -> Found {
        Found {
            endpoint: endpoint.map(Into::into),
            docker: docker.map_err(Into::into),
            java: java.map_err(Into::into),
            ci,
        }
    }

    #[test]
    fn a_named_endpoint_comes_before_docker_before_java() {
        for ci in [false, true] {
            let given = choose(&found(Some("http://there"), Ok(()), Ok(()), ci)).unwrap();
            assert_eq!(given, Way::Given("http://there".into()));
            assert_eq!(
                choose(&found(None, Ok(()), Ok(()), ci)).unwrap(),
                Way::Compose
            );
            assert_eq!(choose(&found(None, NO, Ok(()), ci)).unwrap(), Way::Java);
        }
    }

    #[test]
    fn the_embedded_one_is_the_last_choice_and_says_why() {
        let way = choose(&found(None, NO, Err("no mvn"), false)).unwrap();
        let notice = way.to_string();
        assert!(matches!(way, Way::Embedded(_)));
        for part in ["NOTICE", ENDPOINT_VAR, "docker: none here", "java: no mvn"] {
            assert!(notice.contains(part), "{notice}");
        }
    }

    #[test]
    fn on_a_build_server_the_embedded_one_is_an_error_that_says_what_to_do() {
        let error = choose(&found(None, NO, NO, true)).unwrap_err().to_string();
        assert!(
            error.contains("CI=true") && error.contains(ENDPOINT_VAR),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_given_server_that_does_not_answer_is_an_error_that_names_the_variable() {
        let nobody = wait::endpoint(wait::free_port().unwrap());
        let error = Server::start(Way::Given(nobody.clone()))
            .await
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains(ENDPOINT_VAR) && error.contains(&nobody),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_given_server_is_used_and_left_running() {
        let embedded = murmur_testkit::Embedded::start().unwrap();
        let server = Server::start(Way::Given(embedded.endpoint()))
            .await
            .unwrap();
        assert_eq!(server.endpoint(), Some(embedded.endpoint().as_str()));
        drop(server);
        wait::for_given(&embedded.endpoint()).await.unwrap();
    }
}
