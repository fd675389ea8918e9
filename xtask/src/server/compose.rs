//! DynamoDB Local in a container, with the `docker-compose.yml` of this project.

use std::ffi::{OsStr, OsString};
use std::process::Stdio;

use anyhow::{Context, Result};
use tokio::process::Command;

use super::wait;
use crate::{process, workspace};

/// Separate from the containers of a manual `docker compose up`.
const PROJECT: &str = "murmur-itest";

/// The variable that sets the port in `docker-compose.yml`.
const PORT_VAR: &str = "DYNAMODB_LOCAL_PORT";

/// Checks whether containers can be started: a client without a daemon is not enough.
pub(super) async fn usable() -> Result<(), String> {
    let ask = |args: &[&str]| {
        let mut docker = Command::new("docker");
        docker.args(args).kill_on_drop(true);
        docker
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        async move { docker.status().await.map(|status| status.success()) }
    };
    match ask(&["info"]).await {
        Ok(true) => {}
        Ok(false) => return Err("its daemon does not answer".into()),
        Err(_) => return Err("not installed".into()),
    }
    match ask(&["compose", "version"]).await {
        Ok(true) => Ok(()),
        _ => Err("has no compose".into()),
    }
}

/// A running container. Dropping it stops and removes it.
pub(super) struct Container {
    docker: OsString,
    port: u16,
}

impl Container {
    /// Starts DynamoDB Local on `port` and waits until it answers. Cancel safe: the container is
    /// stopped.
    pub(super) async fn start(docker: &OsStr, port: u16) -> Result<Self> {
        // Created before the start, so that a partly started container is removed, too.
        let container = Self {
            docker: docker.to_owned(),
            port,
        };
        let mut up = Command::from(container.compose(&["up", "--detach", "--quiet-pull"]));
        process::telling("starting the container", process::run(&mut up))
            .await
            .context("docker compose does not start DynamoDB Local")?;
        wait::until_it_answers(port).await?;
        Ok(container)
    }

    fn compose(&self, args: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(&self.docker);
        command
            .args(["compose", "--project-name", PROJECT])
            .args(args);
        command
            .env(PORT_VAR, self.port.to_string())
            .current_dir(workspace::root());
        command
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let down = self
            .compose(&["down", "--timeout", "1"])
            .stdin(Stdio::null())
            .status();
        if !down.is_ok_and(|status| status.success()) {
            eprintln!("the container may still run: docker compose --project-name {PROJECT} down");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use murmur_testkit::Embedded;
    use tempfile::TempDir;

    use super::super::{FLAGS, VERSION};
    use super::*;

    #[test]
    fn docker_compose_yml_says_what_the_java_way_does() {
        let file = fs::read_to_string(workspace::root().join("docker-compose.yml")).unwrap();
        let value = |key: &str| {
            let mut values = file
                .lines()
                .filter_map(|line| line.trim().strip_prefix(key));
            values
                .next()
                .unwrap_or_else(|| panic!("no {key} in docker-compose.yml"))
                .trim()
        };
        assert_eq!(value("image:"), format!("amazon/dynamodb-local:{VERSION}"));
        let flags = FLAGS.join(" ");
        assert_eq!(
            value("command:"),
            format!("-jar DynamoDBLocal.jar {flags} -port 8000")
        );
        assert_eq!(
            value("- \"127"),
            format!(".0.0.1:${{{PORT_VAR}:-8000}}:8000\"")
        );
    }

    /// A `docker` that records its arguments and exits with `code`.
    fn fake_docker(folder: &TempDir, code: i32) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;

        let (docker, log) = (folder.path().join("docker"), folder.path().join("log"));
        let script = format!(
            "#!/bin/sh\necho \"$*\" on ${PORT_VAR} >> {}\nexit {code}\n",
            log.display()
        );
        fs::write(&docker, script).unwrap();
        fs::set_permissions(&docker, fs::Permissions::from_mode(0o755)).unwrap();
        docker
    }

    fn calls(folder: &TempDir) -> Vec<String> {
        let log = fs::read_to_string(folder.path().join("log")).unwrap();
        log.lines()
            .map(|line| line.replace("compose --project-name murmur-itest ", ""))
            .collect()
    }

    #[tokio::test]
    async fn a_container_is_started_on_its_port_and_stopped_when_dropped() {
        let folder = TempDir::new().unwrap();
        // Stands for the server in the container.
        let server = Embedded::start().unwrap();
        let port = server
            .endpoint()
            .rsplit(':')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        let container = Container::start(fake_docker(&folder, 0).as_ref(), port)
            .await
            .unwrap();
        assert_eq!(
            calls(&folder),
            [format!("up --detach --quiet-pull on {port}")]
        );
        drop(container);
        assert_eq!(calls(&folder)[1], format!("down --timeout 1 on {port}"));
    }

    #[tokio::test]
    async fn a_container_that_does_not_start_is_removed() {
        let folder = TempDir::new().unwrap();
        let error = Container::start(fake_docker(&folder, 1).as_ref(), 1)
            .await
            .err()
            .unwrap();
        assert!(error.to_string().contains("docker compose"), "{error}");
        assert_eq!(calls(&folder).len(), 2, "up, then down");
    }
}
