//! `/metrics`, `/livez`, `/readyz`, `/healthz` and `/version` on a loopback port. It writes nothing and reveals no names of tenants.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use http::{Method, Request};
use imagevol_base::Supervisor;
use tokio::net::TcpListener;

use crate::http::{Answer, health, json, no_such_route, serve, typed};
use crate::node::{Node, Unfit};

/// What OpenMetrics answers are (OpenMetrics 1.0, "Overall Structure").
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What can be asked.
pub(crate) trait Subject: Send + Sync + 'static {
    fn answer(&self, request: &Request<()>) -> Answer;
}

/// Listens and serves.
pub(crate) async fn start(address: SocketAddr, subject: impl Subject, supervisor: &Supervisor) -> anyhow::Result<()> {
    let subject = Arc::new(subject);
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let bound = listener.local_addr().context("cannot tell the metrics address")?;
    tracing::info!(address = %bound, "serving metrics");
    let connections = supervisor.child("admin");
    supervisor.spawn("admin", async move {
        loop {
            tokio::select! {
                () = connections.cancelled() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let subject = Arc::clone(&subject);
                        let answer = move |request: Request<_>| std::future::ready(subject.answer(&request.map(drop)));
                        serve(stream, answer, &connections);
                    }
                    Err(error) => tracing::warn!(%error, "cannot accept a connection"),
                },
            }
        }
    });
    Ok(())
}

impl Subject for Node {
    fn answer(&self, request: &Request<()>) -> Answer {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/metrics") => match self.metrics.encode() {
                Ok(text) => typed(text.into_bytes(), OPENMETRICS),
                Err(error) => crate::http::Failure::internal(error.to_string()).into_answer(),
            },
            (&Method::GET, "/livez") => health(&self.not_live()),
            (&Method::GET, "/readyz" | "/healthz") => health(&self.not_ready()),
            (&Method::GET, "/version") => json(&crate::node::version()),
            (method, path) => no_such_route(method, path),
        }
    }
}

impl Subject for Unfit {
    fn answer(&self, request: &Request<()>) -> Answer {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/livez") => health(&[]),
            (&Method::GET, "/readyz" | "/healthz") => health(&[self.why().to_owned()]),
            (&Method::GET, "/version") => json(&crate::node::version()),
            (method, path) => no_such_route(method, path),
        }
    }
}
