//! DynamoDB Local from Maven, run with Java.

use std::env;
use std::fs::{self, File};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use super::{FLAGS, VERSION, wait};
use crate::process::{self, Group};
use crate::workspace;

const MAIN_CLASS: &str = "software.amazon.dynamodb.services.local.main.ServerRunner";

/// The Java version that DynamoDB Local 3 needs.
const LEAST_JAVA: u32 = 17;

/// Checks whether the server can run here: it needs a recent Java, and its jars or Maven to fetch
/// them.
pub(super) async fn usable() -> Result<(), String> {
    let mut java = Command::new(java());
    // Java prints its version to the standard error.
    let answer = java.arg("-version").kill_on_drop(true).output().await;
    let answer = answer.map_err(|_| "not installed")?;
    let text = String::from_utf8_lossy(&answer.stderr);
    match major_version(&text) {
        Some(version) if version >= LEAST_JAVA => {}
        Some(version) => return Err(format!("version {version}, {LEAST_JAVA} is needed")),
        None => return Err("`java -version` names none".into()),
    }
    if jars().is_dir() {
        return Ok(());
    }
    match Command::new("mvn")
        .arg("-v")
        .kill_on_drop(true)
        .output()
        .await
    {
        Ok(answer) if answer.status.success() => Ok(()),
        _ => Err("there, but not mvn (Maven)".into()),
    }
}

/// Starts the server on `port` and waits until it answers. Cancel safe: the server is stopped.
pub(super) async fn start(port: u16) -> Result<Group> {
    fetch().await?;
    let log = workspace::target("dynamodb-local").join("server.log");
    let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut java = Command::new(java());
    java.arg("-cp")
        .arg(jars().join("*"))
        .arg(MAIN_CLASS)
        .args(FLAGS);
    java.args(["-port", &port.to_string()])
        .stdout(output.try_clone()?)
        .stderr(output);
    let mut server = Group::spawn(&mut java)?;
    tokio::select! {
        answer = wait::until_it_answers(port) => {
            answer.with_context(|| format!("DynamoDB Local, see {}", log.display()))?;
        }
        status = server.wait() => {
            bail!("DynamoDB Local ended at once ({}), see {}", status?, log.display());
        }
    }
    Ok(server)
}

/// The folder of the jars after they were fetched.
fn jars() -> PathBuf {
    workspace::target("dynamodb-local").join(VERSION)
}

/// Fetches the jars with Maven, unless they exist.
async fn fetch() -> Result<()> {
    let jars = jars();
    if jars.is_dir() {
        return Ok(());
    }
    eprintln!("DynamoDB Local {VERSION} is fetched through Maven, once (about 50 MB)");
    // Renamed at the end, so that an interrupted fetch is not taken for a complete one.
    let partial = workspace::target("dynamodb-local/partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir_all(&partial)?;
    let pom = workspace::target("dynamodb-local/pom.xml");
    fs::write(&pom, pom_xml())?;
    let mut maven = Command::new("mvn");
    maven
        .args(["--batch-mode", "--quiet", "-Dstyle.color=never", "--file"])
        .arg(&pom);
    maven.arg("dependency:copy-dependencies");
    maven.arg(format!("-DoutputDirectory={}", partial.display()));
    process::telling("fetching through Maven", process::run(&mut maven))
        .await
        .context("Maven does not fetch DynamoDB Local")?;
    fs::rename(&partial, &jars)?;
    Ok(())
}

fn pom_xml() -> String {
    format!(
        r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>murmur</groupId>
  <artifactId>dynamodb-local</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>software.amazon.dynamodb</groupId>
      <artifactId>DynamoDBLocal</artifactId>
      <version>{VERSION}</version>
    </dependency>
  </dependencies>
</project>
"#
    )
}

fn java() -> PathBuf {
    let home = env::var_os("JAVA_HOME").filter(|home| !home.is_empty());
    home.map_or_else(
        || "java".into(),
        |home| PathBuf::from(home).join("bin/java"),
    )
}

/// 17 of `openjdk version "17.0.15" …`; 8 of `java version "1.8.0_392"`.
fn major_version(text: &str) -> Option<u32> {
    let version = text.split('"').nth(1)?;
    let mut parts = version.split(['.', '-', '_', '+']);
    match parts.next()?.parse().ok()? {
        1 => parts.next()?.parse().ok(),
        major => Some(major),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn javas_version_is_read_in_its_old_and_new_form() {
        let new = "openjdk version \"17.0.15\" 2025-04-15\nOpenJDK Runtime Environment";
        assert_eq!(major_version(new), Some(17));
        assert_eq!(
            major_version("openjdk version \"25-ea\" 2025-09-16"),
            Some(25)
        );
        assert_eq!(major_version("java version \"1.8.0_392\""), Some(8));
        assert_eq!(major_version("The operation couldn't be completed."), None);
    }
}
