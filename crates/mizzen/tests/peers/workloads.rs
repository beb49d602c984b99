//! The test's own programs in the mesh. They are this very executable, told by the variable `WORKLOAD` what to be.

use std::{convert::Infallible, future::Future};

use hyper::{Request, Response, StatusCode, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use mizzen_testkit::Mesh;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use super::{grpc, upgrade};

#[test]
#[ignore = "a workload of the mesh that the other tests start"]
fn run() {
    let args: Vec<String> = std::env::var("WORKLOAD_ARGS").unwrap_or_default().split(' ').map(str::to_owned).collect();
    match std::env::var("WORKLOAD").as_deref() {
        Ok("servers") => block_on(async {
            tokio::join!(serve(2525, mail), serve(2626, last), serve(9000, chat), grpc::serve(9090), grpc::serve(9091));
        }),
        Ok("chat") => block_on(upgrade::chat(&args[0], &args[1])),
        Ok("last") => block_on(wait_for_the_end(&args[0])),
        Ok("grpc") => block_on(grpc::calls(&args[0])),
        _ => {}
    }
}

/// Where this program is.
pub(crate) fn program() -> String {
    std::env::current_exe().expect("the test's own path").display().to_string()
}

pub(crate) fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime").block_on(future);
}

/// Runs one of the clients in the mesh.
pub(crate) fn client(mesh: &Mesh, name: &str, args: &[&str]) {
    let (name, args) = (format!("WORKLOAD={name}"), format!("WORKLOAD_ARGS={}", args.join(" ")));
    let output = mesh.run("strict", "visitor", &["env", &name, &args, &program(), "workloads::run", "--exact", "--ignored", "--nocapture"]);
    assert!(output.code == 0, "{name} {args}\n{}\n{}\n{}", output.out, output.err, mesh.logs());
}

async fn serve<F: Future<Output = std::io::Result<()>> + Send + 'static>(port: u16, answer: fn(TcpStream) -> F) {
    let listener = TcpListener::bind(("0.0.0.0", port)).await.expect("listen");
    loop {
        let (stream, from) = listener.accept().await.expect("accept");
        tokio::spawn(async move {
            if let Err(error) = answer(stream).await {
                println!("{from} at {port}: {error}");
            }
        });
    }
}

/// As much of SMTP as a mail needs.
async fn mail(stream: TcpStream) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    write.write_all(b"220 mesh.test speaks first\r\n").await?;
    while let Some(line) = lines.next_line().await? {
        let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        let answer = match verb.as_str() {
            "EHLO" | "HELO" => "250 at your service".to_owned(),
            "MAIL" | "RCPT" => "250 so be it".to_owned(),
            "DATA" => {
                write.write_all(b"354 go on\r\n").await?;
                let mut count = 0;
                while lines.next_line().await?.is_some_and(|line| line != ".") {
                    count += 1;
                }
                format!("250 taken: {count} lines")
            }
            "QUIT" => return write.write_all(b"221 until next time\r\n").await,
            _ => "500 what?".to_owned(),
        };
        write.write_all(format!("{answer}\r\n").as_bytes()).await?;
    }
    Ok(())
}

/// Answers what it has received once the client has ended.
async fn last(mut stream: TcpStream) -> std::io::Result<()> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await?;
    stream.write_all(&all).await
}

/// The client of [`last`].
async fn wait_for_the_end(address: &str) {
    for size in [0, 1, 100_000, 5_000_000] {
        let mut stream = TcpStream::connect(address).await.expect("connect");
        let sent: Vec<u8> = (0..size).map(|n: u32| (n / 5) as u8).collect();
        stream.write_all(&sent).await.expect("write");
        stream.shutdown().await.expect("shut down");
        let mut back = Vec::new();
        stream.read_to_end(&mut back).await.expect("read");
        assert!(back == sent, "{} of {size} bytes came back, or others", back.len());
    }
}

/// Upgrades connections, and sends back what comes, up to the word `END`.
async fn chat(stream: TcpStream) -> std::io::Result<()> {
    let service = service_fn(|request: Request<Incoming>| async {
        let mut response = Response::new(String::new());
        if request.headers().get(header::UPGRADE).is_none_or(|name| name != "websocket") {
            *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
            return Ok::<_, Infallible>(response);
        }
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, header::HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        tokio::spawn(async move {
            if let Ok(upgraded) = hyper::upgrade::on(request).await {
                let _ = echo(TokioIo::new(upgraded)).await;
            }
        });
        Ok(response)
    });
    let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
    served.map_err(std::io::Error::other)
}

async fn echo(mut stream: TokioIo<hyper::upgrade::Upgraded>) -> std::io::Result<()> {
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let n = stream.read(&mut buffer).await?;
        stream.write_all(&buffer[..n]).await?;
        if n == 0 || buffer[..n].ends_with(b"END") {
            return stream.shutdown().await;
        }
    }
}
