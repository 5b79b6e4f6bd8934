//! Metrics, health and status over HTTP.
//!
//! Made for a few scrapers and probes, and proof against anything else that connects: a connection
//! brings one answer and ends; there are at most so many, each with a small buffer and a short life,
//! and the one that has been there longest makes room for a new one. An answer takes no time to speak
//! of, so that one is idle or stuck.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::descriptors;
use super::metrics::{self, Format};
use super::observation::Observation;

/// More connections than that are never open.
const MOST_CONNECTIONS: usize = 32;

/// A request's head is not longer, in bytes.
const BUFFER: usize = 16 << 10;

/// From the connection to the last byte of the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// After a failure to accept, most likely for want of descriptors, the next attempt waits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const PLAIN: &str = "text/plain; charset=utf-8";

const INDEX: &str = "walring\n\n\
    /metrics    for Prometheus\n\
    /healthz    200 while WAL streams and nothing has stalled, otherwise 503 and the reason\n\
    /v1/status  everything as JSON\n";

/// Answers everybody, for ever.
pub async fn serve(listener: TcpListener, observation: Arc<Observation>) {
    let mut connections: VecDeque<JoinHandle<()>> = VecDeque::with_capacity(MOST_CONNECTIONS);
    let most = descriptors::for_clients(MOST_CONNECTIONS);
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        connections.retain(|connection| !connection.is_finished());
        if connections.len() == most
            && let Some(oldest) = connections.pop_front()
        {
            oldest.abort();
        }
        connections.push_back(tokio::spawn(converse(socket, Arc::clone(&observation))));
        // A request that came with the connection is answered before the next one is accepted.
        tokio::task::yield_now().await;
    }
}

async fn converse(socket: TcpStream, observation: Arc<Observation>) {
    // It only makes answers quicker.
    let _ = socket.set_nodelay(true);
    let service = service_fn(move |request| {
        let answer = answer(&request, &observation);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(socket), service);
    // What goes wrong on a connection is its client's concern.
    let _ = timeout(PATIENCE, connection).await;
}

/// Bodies of requests are not read; hyper leaves out that of an answer to HEAD.
fn answer(request: &Request<Incoming>, observation: &Observation) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut refusal = page(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "method not allowed\n");
        let allowed = HeaderValue::from_static("GET, HEAD");
        refusal.headers_mut().insert(ALLOW, allowed);
        return refusal;
    }
    match request.uri().path() {
        "/" => page(StatusCode::OK, PLAIN, INDEX),
        "/metrics" => {
            let format = Format::wanted(request.headers().get_all(ACCEPT));
            let text = metrics::page(observation, format);
            page(StatusCode::OK, format.content_type(), text)
        }
        "/healthz" => match observation.ailment() {
            None => page(StatusCode::OK, PLAIN, "ok\n"),
            Some(reason) => page(StatusCode::SERVICE_UNAVAILABLE, PLAIN, reason + "\n"),
        },
        "/v1/status" => match serde_json::to_vec(&observation.status()) {
            Ok(json) => page(StatusCode::OK, "application/json", json),
            Err(error) => page(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, format!("{error}\n")),
        },
        _ => page(StatusCode::NOT_FOUND, PLAIN, "not found\n"),
    }
}

fn page(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut page = Response::new(Full::new(body.into()));
    *page.status_mut() = status;
    let headers = page.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    page
}
