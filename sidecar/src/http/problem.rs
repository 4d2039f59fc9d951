//! Errors as problem details.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use protocol::http::problem::{self, Problem};

use crate::app::claims::ClaimError;
use crate::app::issue::IssueError;
use crate::app::leases::LeaseError;
use crate::app::sessions::SessionError;
use crate::app::state::StateError;

/// An error answer of the API.
#[derive(Debug)]
pub(super) struct ApiProblem {
    status: StatusCode,
    title: &'static str,
    detail: String,
    retry_after: Option<Duration>,
}

impl ApiProblem {
    pub(super) fn new(status: StatusCode, title: &'static str, detail: impl ToString) -> Self {
        Self {
            status,
            title,
            detail: detail.to_string(),
            retry_after: None,
        }
    }

    pub(super) fn unavailable(detail: impl ToString) -> Self {
        Self {
            retry_after: Some(Duration::from_secs(1)),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail)
        }
    }

    pub(super) fn invalid(detail: impl ToString) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid request", detail)
    }
}

impl From<IssueError> for ApiProblem {
    fn from(error: IssueError) -> Self {
        let (status, title) = match &error {
            IssueError::Invalid(_) => (StatusCode::BAD_REQUEST, "invalid request"),
            IssueError::LimitedClient(_) | IssueError::LimitedOverall(_) => {
                (StatusCode::TOO_MANY_REQUESTS, "too many requests")
            }
            _ => (StatusCode::SERVICE_UNAVAILABLE, "no offer can be made"),
        };
        Self {
            status,
            title,
            detail: error.to_string(),
            retry_after: error.retry_after(),
        }
    }
}

impl From<ClaimError> for ApiProblem {
    fn from(error: ClaimError) -> Self {
        match error {
            ClaimError::Invalid(_) => Self::invalid(error),
            other => Self::unavailable(other),
        }
    }
}

impl From<SessionError> for ApiProblem {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Invalid(_) => Self::invalid(error),
            other => Self::unavailable(other),
        }
    }
}

impl From<LeaseError> for ApiProblem {
    fn from(error: LeaseError) -> Self {
        match error {
            LeaseError::Invalid(_) => Self::invalid(error),
            other => Self::unavailable(other),
        }
    }
}

impl From<StateError> for ApiProblem {
    fn from(error: StateError) -> Self {
        match error {
            StateError::InvalidVm => Self::invalid(error),
            other => Self::unavailable(other),
        }
    }
}

impl IntoResponse for ApiProblem {
    fn into_response(self) -> Response {
        let body = Problem::new("about:blank", self.title, self.status.as_u16())
            .with_detail(self.detail)
            .to_json();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static(problem::CONTENT_TYPE),
        );
        if let Some(wait) = self.retry_after {
            // Whole seconds, and not too early.
            let seconds = wait
                .as_secs()
                .saturating_add(u64::from(wait.subsec_nanos() > 0));
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
