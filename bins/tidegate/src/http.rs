//! `/metrics`, `/healthz` and `/readyz`.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::{Registry, TextEncoder};
use tokio::net::TcpListener;

use crate::ready::Watched;

/// Serves until the task is dropped.
pub(crate) async fn serve(
    listener: TcpListener,
    registry: Registry,
    watched: Watched,
) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .with_state(registry)
        .route("/readyz", get(ready).with_state(watched));
    axum::serve(listener, routes).await
}

/// Binds the port of the HTTP interface.
///
/// # Errors
/// A text for the operator.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| {
        format!(
            "error: http.bind: cannot listen on {address}: {error}; choose another with TIDEGATE_HTTP__BIND"
        )
    })
}

async fn metrics(State(registry): State<Registry>) -> impl IntoResponse {
    // Encoding fails only for a metric without a name or a value, and the registry takes none of those.
    let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap_or_default();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

async fn ready(State(watched): State<Watched>) -> impl IntoResponse {
    let readiness = watched.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    // Plain texts and a truth value: they have a form in JSON.
    let body = serde_json::to_string(&readiness).unwrap_or_default();
    (status, [(CONTENT_TYPE, "application/json")], body)
}
