//! Where the workload's token comes from.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::Mutex;

/// Where a token comes from. Each time one is needed it is asked for anew, since tokens expire.
#[derive(Clone, Debug)]
pub enum TokenSource {
    /// A Unix stream socket: the line `token` is sent, one line with the token comes back.
    Stream(Arc<Mutex<Asked>>),
    /// A file, as Kubernetes projects it.
    File(PathBuf),
}

/// The socket of [`TokenSource::Stream`], registered with a runtime at first use.
#[derive(Debug)]
pub struct Asked {
    waiting: Option<std::os::unix::net::UnixStream>,
    open: Option<BufReader<UnixStream>>,
    /// A question was sent, and its answer has not come: it is read, not asked again, even by a later caller.
    asked: bool,
    /// What has come of that answer.
    line: Vec<u8>,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file or socket could not be read.
    #[error("workload token: {0}")]
    Io(#[from] io::Error),
    /// The other end of the socket is gone.
    #[error("workload token: who gives them has gone")]
    Gone,
    /// No answer.
    #[error("workload token: no answer within {0:?}")]
    Timeout(Duration),
    /// The answer is no token.
    #[error("workload token: the answer is empty or longer than {MAX_TOKEN} bytes")]
    Invalid,
}

const MAX_TOKEN: usize = 64 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);

impl TokenSource {
    /// A socket.
    pub fn stream(socket: OwnedFd) -> Self {
        TokenSource::Stream(Arc::new(Mutex::new(Asked { waiting: Some(socket.into()), open: None, asked: false, line: Vec::new() })))
    }

    /// `MIZZEN_TOKEN_FD`, else `MIZZEN_TOKEN_FILE`.
    ///
    /// # Errors
    /// If the first is set, and is not an open descriptor.
    pub fn from_env() -> io::Result<Option<Self>> {
        if let Some(socket) = mizzen_net::inherited_fd_from_env("MIZZEN_TOKEN_FD")? {
            return Ok(Some(Self::stream(socket)));
        }
        Ok(std::env::var_os("MIZZEN_TOKEN_FILE").map(|path| TokenSource::File(path.into())))
    }

    /// A token that is valid now.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub async fn fetch(&self) -> Result<String, TokenError> {
        let text = match self {
            TokenSource::File(path) => tokio::fs::read_to_string(path).await?,
            TokenSource::Stream(asked) => {
                let mut asked = asked.lock().await;
                tokio::time::timeout(PATIENCE, asked.ask()).await.unwrap_or(Err(TokenError::Timeout(PATIENCE)))?
            }
        };
        let token = text.trim();
        // A token becomes a header: nothing in it may end that.
        let visible = token.bytes().all(|b| b.is_ascii_graphic());
        if token.is_empty() || token.len() > MAX_TOKEN || !visible { Err(TokenError::Invalid) } else { Ok(token.to_owned()) }
    }
}

impl Asked {
    async fn ask(&mut self) -> Result<String, TokenError> {
        if let Some(socket) = self.waiting.take() {
            socket.set_nonblocking(true)?;
            self.open = Some(BufReader::new(UnixStream::from_std(socket)?));
        }
        let stream = self.open.as_mut().ok_or(TokenError::Gone)?;
        if !self.asked {
            stream.write_all(b"token\n").await?;
            self.asked = true;
        }
        // Each step keeps what it has read, so that nothing is lost if the caller's patience ends here.
        let room = (MAX_TOKEN + 1).saturating_sub(self.line.len());
        stream.take(room as u64).read_until(b'\n', &mut self.line).await?;
        self.asked = false;
        let line = String::from_utf8(std::mem::take(&mut self.line)).map_err(|_| TokenError::Invalid)?;
        if line.ends_with('\n') {
            return Ok(line);
        }
        // It ended, or it is no line: whoever answers so is not asked again.
        self.open = None;
        Err(if line.is_empty() { TokenError::Gone } else { TokenError::Invalid })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_each_time() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let source = TokenSource::stream(ours.into());
        theirs.set_nonblocking(true).unwrap();
        let server = tokio::spawn(async move {
            let mut stream = BufReader::new(UnixStream::from_std(theirs).unwrap());
            for answer in ["one\n", "two\n", "\n"] {
                let mut line = String::new();
                stream.read_line(&mut line).await.unwrap();
                assert_eq!(line, "token\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        assert_eq!(source.fetch().await.unwrap(), "one");
        assert_eq!(source.fetch().await.unwrap(), "two");
        assert!(matches!(source.fetch().await, Err(TokenError::Invalid)));
        server.await.unwrap();
        assert!(source.fetch().await.is_err());
    }

    /// The one who gives tokens may have to wait for the control plane, longer than one question lasts.
    #[tokio::test(start_paused = true)]
    async fn a_late_answer() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let source = TokenSource::stream(ours.into());
        assert!(matches!(source.fetch().await, Err(TokenError::Timeout(_))));
        theirs.set_nonblocking(true).unwrap();
        let mut theirs = BufReader::new(UnixStream::from_std(theirs).unwrap());
        theirs.write_all(b"la").await.unwrap();
        assert!(matches!(source.fetch().await, Err(TokenError::Timeout(_))));
        theirs.write_all(b"te\n").await.unwrap();
        assert_eq!(source.fetch().await.unwrap(), "late");
        let mut line = String::new();
        theirs.read_line(&mut line).await.unwrap();
        assert_eq!((line.as_str(), theirs.buffer()), ("token\n", &b""[..]), "it was asked once");
    }

    #[tokio::test]
    async fn files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        for (text, expected) in [("abc.def\n", Some("abc.def")), ("", None), ("a\nb", None)] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(TokenSource::File(path.clone()).fetch().await.ok().as_deref(), expected, "{text:?}");
        }
    }
}
