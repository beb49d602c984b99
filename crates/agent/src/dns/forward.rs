//! Questions that others answer.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType};
use mizzen_net::ConnectOptions;

use super::{read_message, write_message};

/// How long one server has, by one transport.
const TRY: Duration = Duration::from_millis(1500);
/// How often the list of servers is gone through.
const ROUNDS: usize = 2;

/// Who answers what the mesh does not know.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    /// Tried in order.
    pub(crate) servers: Vec<SocketAddr>,
    /// The mark on the sockets.
    pub(crate) mark: Option<u32>,
}

/// Why nobody answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    #[error("no upstream server is configured")]
    None,
    #[error("{server}: {source}")]
    Failed { server: SocketAddr, source: io::Error },
}

impl Upstream {
    /// The response to a question, with the question's id.
    ///
    /// # Errors
    /// If no server gives one.
    pub(crate) async fn ask(&self, question: &[u8]) -> Result<Vec<u8>, ForwardError> {
        let mut error = ForwardError::None;
        for server in self.servers.iter().cycle().take(self.servers.len() * ROUNDS) {
            match self.exchange(*server, question).await {
                Ok(response) => return Ok(response),
                Err(source) => error = ForwardError::Failed { server: *server, source },
            }
        }
        Err(error)
    }

    /// By UDP, and once more by TCP if the response was cut.
    async fn exchange(&self, server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
        let options = ConnectOptions { mark: self.mark, timeout: TRY, ..ConnectOptions::default() };
        // Another id, and the kernel chooses another port: who cannot see the question cannot forge the answer.
        let id = Message::query().metadata.id;
        let mut sent = question.to_vec();
        put_id(&mut sent, id)?;
        let response = tokio::time::timeout(TRY, by_udp(server, &options, &sent)).await??;
        let cut = response.get(2).is_some_and(|flags| flags & 0x02 != 0);
        // If TCP fails, the cut response is better than none: the client may know what to do.
        let whole = if cut { tokio::time::timeout(TRY, by_tcp(server, &options, &sent)).await.ok().and_then(Result::ok) } else { None };
        let mut response = whole.unwrap_or(response);
        let asked = question.first_chunk::<2>().copied().unwrap_or_default();
        put_id(&mut response, u16::from_be_bytes(asked))?;
        Ok(response)
    }
}

fn put_id(message: &mut [u8], id: u16) -> io::Result<()> {
    let place = message.first_chunk_mut::<2>().ok_or(io::ErrorKind::InvalidData)?;
    *place = id.to_be_bytes();
    Ok(())
}

async fn by_udp(server: SocketAddr, options: &ConnectOptions, question: &[u8]) -> io::Result<Vec<u8>> {
    let socket = mizzen_net::connect_udp(server, options).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let response = buffer.get(..length).unwrap_or_default();
        if belongs(question, response) {
            return Ok(response.to_vec());
        }
    }
}

async fn by_tcp(server: SocketAddr, options: &ConnectOptions, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = mizzen_net::connect(server, options).await?;
    write_message(&mut stream, question).await?;
    let response = read_message(&mut stream).await?;
    if belongs(question, &response) { Ok(response) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Whether this is a response to that question.
fn belongs(question: &[u8], response: &[u8]) -> bool {
    let (Ok(q), Ok(r)) = (Message::from_vec(question), Message::from_vec(response)) else { return false };
    // A server that could not read the question may leave it out.
    r.metadata.message_type == MessageType::Response && r.metadata.id == q.metadata.id && (r.queries == q.queries || r.queries.is_empty())
}
