//! How many copies of a book there are: a line protocol over TCP. The client sends a book's number, the service answers a count.

use std::time::Duration;

use anyhow::Result;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use super::{Answer, CALL_TIMEOUT, stopped};

/// A number and its newline; a longer line is a mistake.
const MAX_LINE: u64 = 64;
const IDLE: Duration = Duration::from_secs(60);

pub(super) async fn serve(listener: TcpListener) -> Result<()> {
    let stop = stopped();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => return Ok(()),
            accepted = listener.accept() => {
                let (stream, from) = accepted?;
                tokio::spawn(async move {
                    if let Err(error) = tokio::time::timeout(IDLE, answer(stream)).await.unwrap_or(Ok(())) {
                        eprintln!("bookshop-stock: {from}: {error}");
                    }
                });
            }
        }
    }
}

async fn answer(stream: TcpStream) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read);
    loop {
        let mut line = String::new();
        if (&mut lines).take(MAX_LINE).read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let reply = match line.trim().parse::<u32>() {
            Ok(book @ 1..=3) => format!("{}\n", 7 * book - 4),
            Ok(_) => "0\n".to_owned(),
            Err(_) => "error: send a book's number\n".to_owned(),
        };
        write.write_all(reply.as_bytes()).await?;
    }
}

/// Asks the service at `address` for the copies of `book`.
pub(super) async fn ask(address: &str, book: u32) -> Answer<u32> {
    let call = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("{book}\n").as_bytes()).await?;
        let mut reply = String::new();
        BufReader::new(stream.take(MAX_LINE)).read_line(&mut reply).await?;
        Ok::<_, std::io::Error>(reply)
    };
    let reply = tokio::time::timeout(CALL_TIMEOUT, call).await.map_err(|_| "no answer in time".to_owned())?;
    let reply = reply.map_err(|e| format!("cannot ask {address}: {e}"))?;
    reply.trim().parse().map_err(|_| if reply.is_empty() { "the connection was closed".to_owned() } else { reply.trim().to_owned() })
}
