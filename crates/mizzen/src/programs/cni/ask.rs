//! What the plugin asks the agent, over a Unix socket that root alone may open: the annotations of a pod, where the runtime does not pass them along.
//! A line of JSON each way.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
    time::timeout,
};

use super::wanted::Annotations;

/// The socket in the folder that the agent shares with its node, by Istio's name.
const SOCKET: &str = "pluginevent.sock";
/// The longest question, in bytes: names have 253 at most.
const LONGEST_QUESTION: u64 = 4096;
/// The longest answer, in bytes: annotations of an object have 256 KiB at most, and JSON may double them.
const LONGEST_ANSWER: u64 = 1 << 20;
/// How long an answer may take: the agent asks the API server.
const PATIENCE: Duration = Duration::from_secs(20);

/// Which pod is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Question {
    pub(super) namespace: String,
    pub(super) name: String,
    /// Another pod may have had the name before.
    pub(super) uid: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Answer {
    Annotations(Annotations),
    Error(String),
}

/// Asks the agent.
///
/// # Errors
/// If it is not there, does not answer in time, or does not know the pod.
pub(super) fn ask(folder: &Path, question: &Question) -> Result<Annotations, String> {
    let path = folder.join(SOCKET);
    let failed = |error: std::io::Error| format!("the node's agent (istio-cni-node) does not answer at {}: {error}", path.display());
    let mut stream = UnixStream::connect(&path).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE))).map_err(failed)?;
    let line = serde_json::to_string(question).map_err(|error| error.to_string())?;
    stream.write_all(format!("{line}\n").as_bytes()).map_err(failed)?;
    let mut line = String::new();
    BufReader::new(stream.take(LONGEST_ANSWER)).read_line(&mut line).map_err(failed)?;
    match serde_json::from_str(&line).map_err(|error| format!("the answer of the node's agent is none: {error}"))? {
        Answer::Annotations(annotations) => Ok(annotations),
        Answer::Error(why) => Err(why),
    }
}

/// Whoever knows the annotations of pods.
pub(super) trait Pods: Send + Sync + 'static {
    /// The annotations of a pod of this node.
    fn annotations(&self, question: Question) -> impl Future<Output = Result<Annotations, String>> + Send;
}

/// Opens the socket in a folder, in place of one that an earlier agent has left.
///
/// # Errors
/// If it cannot be made.
pub(super) fn listen(folder: &Path) -> std::io::Result<UnixListener> {
    let (path, fresh) = (folder.join(SOCKET), folder.join(format!(".{SOCKET}")));
    fs::create_dir_all(folder)?;
    remove(&fresh)?;
    let listener = UnixListener::bind(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
    // Nobody finds it open to all, and whoever asks in between still finds the old one.
    fs::rename(&fresh, &path)?;
    Ok(listener)
}

fn remove(path: &PathBuf) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Answers for as long as it is polled.
pub(super) async fn answer(listener: UnixListener, pods: Arc<impl Pods>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a plugin's question cannot be taken");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let pods = pods.clone();
        tokio::spawn(async move {
            match timeout(PATIENCE, one(stream, &*pods)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "a plugin has left before it was answered"),
                Err(_) => tracing::warn!("a plugin's question has taken too long"),
            }
        });
    }
}

async fn one(stream: tokio::net::UnixStream, pods: &impl Pods) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    tokio::io::BufReader::new(read.take(LONGEST_QUESTION)).read_line(&mut line).await?;
    let answer = match serde_json::from_str::<Question>(&line) {
        Ok(question) => match pods.annotations(question.clone()).await {
            Ok(annotations) => Answer::Annotations(annotations),
            Err(why) => {
                tracing::warn!(namespace = question.namespace, pod = question.name, why, "a pod has to wait");
                Answer::Error(why)
            }
        },
        Err(error) => Answer::Error(format!("the question is none: {error}")),
    };
    write.write_all(format!("{}\n", serde_json::to_string(&answer)?).as_bytes()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Known;

    impl Pods for Known {
        async fn annotations(&self, question: Question) -> Result<Annotations, String> {
            match (&*question.name, question.uid.as_deref()) {
                ("a", Some("1")) => Ok([("k".to_owned(), "v\n".to_owned())].into()),
                _ => Err("there is no such pod".to_owned()),
            }
        }
    }

    fn question(name: &str) -> Question {
        Question { namespace: "shop".to_owned(), name: name.to_owned(), uid: Some("1".to_owned()) }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn questions_and_answers() {
        let folder = tempfile::tempdir().unwrap();
        let ask = |name: &'static str| {
            let folder = folder.path().to_owned();
            tokio::task::spawn_blocking(move || super::ask(&folder, &question(name)))
        };
        let nobody = ask("a").await.unwrap().unwrap_err();
        assert!(nobody.starts_with("the node's agent (istio-cni-node) does not answer at "), "{nobody}");
        let first = tokio::spawn(answer(listen(folder.path()).unwrap(), Arc::new(Known)));
        assert_eq!(ask("a").await.unwrap(), Ok([("k".to_owned(), "v\n".to_owned())].into()));
        assert_eq!(ask("b").await.unwrap(), Err("there is no such pod".to_owned()));
        let mode = fs::metadata(folder.path().join(SOCKET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // The next agent takes its place.
        first.abort();
        tokio::spawn(answer(listen(folder.path()).unwrap(), Arc::new(Known)));
        assert!(ask("a").await.unwrap().is_ok());
        let wrong = |text: &'static str| {
            let path = folder.path().join(SOCKET);
            tokio::task::spawn_blocking(move || {
                let mut stream = UnixStream::connect(path).unwrap();
                stream.write_all(text.as_bytes()).unwrap();
                let mut line = String::new();
                BufReader::new(stream).read_line(&mut line).unwrap();
                line
            })
        };
        let told = wrong("{}\n").await.unwrap();
        assert!(told.starts_with(r#"{"error":"the question is none: "#), "{told}");
    }
}
