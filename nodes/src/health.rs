//! `GET /healthz` over HTTP: whether a service serves, for whoever watches over it.
//!
//! It says nothing that somebody on the machine may not know, takes no input, and never serves more than a few at a time.

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections at a time. Whoever watches asks now and then; the rest is turned away at once.
pub const CONNECTIONS_MAX: usize = 16;

/// A connection asks once, and has so long for all of it.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of a request, the least the library allows.
const REQUEST_LEN_MAX: usize = 8 << 10;

/// Headers of a request.
const HEADERS_MAX: usize = 32;

/// What is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Whether the service does what it is for.
    pub is_well: bool,
    /// A JSON object.
    pub body: String,
}

/// Answers for as long as it is polled. To be called on a local task set.
pub async fn serve(listener: TcpListener, report: impl Fn() -> Report + 'static) {
    let (report, places) = (Rc::new(report), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let report = report.clone();
        tokio::task::spawn_local(async move {
            // Whoever is too slow, or does not speak HTTP, has gone.
            let _ = tokio::time::timeout(PATIENCE, answer(stream, &*report)).await;
            drop(place);
        });
    }
}

async fn answer(stream: TcpStream, report: &dyn Fn() -> Report) -> Result<(), hyper::Error> {
    let service = service_fn(|request: Request<Incoming>| {
        let response = respond(request.method(), request.uri().path(), report);
        std::future::ready(Ok::<_, Infallible>(response))
    });
    http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(REQUEST_LEN_MAX)
        .max_headers(HEADERS_MAX)
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn respond(method: &Method, path: &str, report: &dyn Fn() -> Report) -> Response<Full<Bytes>> {
    let empty = |status: StatusCode| {
        let mut response = Response::new(Full::default());
        *response.status_mut() = status;
        response
    };
    if path != "/healthz" {
        return empty(StatusCode::NOT_FOUND);
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = empty(StatusCode::METHOD_NOT_ALLOWED);
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let report = report();
    let mut response = Response::new(Full::new(Bytes::from(report.body)));
    if !report.is_well {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::time::Instant;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::LocalSet;

    /// Runs a test beside a service that is well as long as told so.
    fn beside<F: Future<Output = ()>>(test: impl FnOnce(std::net::SocketAddr, Rc<Cell<bool>>) -> F) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (address, is_well) = (listener.local_addr().unwrap(), Rc::new(Cell::new(true)));
            let seen = is_well.clone();
            let report = move || Report { is_well: seen.get(), body: format!("{{\"well\":{}}}\n", seen.get()) };
            tokio::task::spawn_local(serve(listener, report));
            tokio::time::timeout(8 * PATIENCE, test(address, is_well)).await.unwrap();
        });
    }

    /// What is answered to these bytes; empty where it is hung up.
    async fn said(address: std::net::SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut answer = Vec::new();
        // It may be hung up at any moment of it.
        let _ = stream.write_all(request).await;
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    #[test]
    fn it_says_whether_the_service_is_well() {
        beside(async |address, is_well| {
            let get = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
            let well = said(address, get).await;
            assert!(well.starts_with("HTTP/1.1 200 ") && well.ends_with("\r\n\r\n{\"well\":true}\n"), "{well}");
            assert!(well.contains("application/json"), "{well}");
            is_well.set(false);
            let ill = said(address, get).await;
            assert!(ill.starts_with("HTTP/1.1 503 ") && ill.ends_with("{\"well\":false}\n"), "{ill}");
            let head = said(address, b"HEAD /healthz HTTP/1.0\r\n\r\n").await;
            assert!(head.starts_with("HTTP/1.0 503 ") && head.ends_with("\r\n\r\n"), "{head}");
        });
    }

    #[test]
    fn what_is_not_asked_for_is_not_there() {
        beside(async |address, _| {
            let cases: [(&[u8], &str); 6] = [
                (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
                (b"GET /healthz/../x HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
                (b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nabcd", "405"),
                (b"\x16\x03\x01\x02\x00\x01\x00", "400"),
                (b"GET /healthz HTTP/9.9\r\n\r\n", "400"),
                (b"nonsense\r\n\r\n", "400"),
            ];
            for (request, expected) in cases {
                let answer = said(address, request).await;
                assert_eq!(answer.get(9..12), Some(expected), "{}: {answer}", request.escape_ascii());
            }
            let long = [b"GET /healthz HTTP/1.1\r\nA: ", &[b'x'; 64 << 10][..], b"\r\n\r\n"].concat();
            let answer = said(address, &long).await;
            assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
            let many = [b"GET /healthz HTTP/1.1\r\n".to_vec(), b"A: b\r\n".repeat(100), b"\r\n".to_vec()].concat();
            assert!(!said(address, &many).await.starts_with("HTTP/1.1 200"));
        });
    }

    #[test]
    fn who_asks_slowly_holds_nobody_up_for_long() {
        beside(async |address, _| {
            let mut slow = Vec::new();
            for _ in 0..CONNECTIONS_MAX {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(b"GET /hea").await.unwrap();
                slow.push(stream);
            }
            let get = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
            let begun = Instant::now();
            let mut turned_away = 0;
            while !said(address, get).await.starts_with("HTTP/1.1 200") {
                turned_away += 1;
                assert!(begun.elapsed() < 3 * PATIENCE, "the slow ones are not hung up on");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            assert!(turned_away > 0, "all places were taken");
            for mut stream in slow {
                let mut rest = Vec::new();
                // Hung up, whichever way.
                let _ = stream.read_to_end(&mut rest).await;
                assert!(!rest.starts_with(b"HTTP/1.1 200"));
            }
        });
    }
}
