//! The stars that readers gave: a gRPC service.

use anyhow::Result;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use super::stopped;

#[allow(missing_docs, unreachable_pub)]
mod proto {
    tonic::include_proto!("bookshop.v1");
}

use proto::{
    RatingReply,
    ratings_server::{Ratings, RatingsServer},
};
pub(super) use proto::{RatingRequest, ratings_client::RatingsClient};

struct Service;

#[tonic::async_trait]
impl Ratings for Service {
    async fn get(&self, request: Request<RatingRequest>) -> Result<Response<RatingReply>, Status> {
        let stars = match request.into_inner().book {
            1 => vec![5, 4],
            2 => vec![5, 5],
            3 => vec![4, 3],
            other => return Err(Status::not_found(format!("no book {other}"))),
        };
        Ok(Response::new(RatingReply { stars }))
    }
}

pub(super) async fn serve(_program: &str, listener: TcpListener) -> Result<()> {
    let incoming = TcpListenerStream::new(listener);
    Server::builder().add_service(RatingsServer::new(Service)).serve_with_incoming_shutdown(incoming, stopped()).await?;
    Ok(())
}
