//! The head of a request, sorted in one pass over its fields.

use crate::pairs::Pairs;

/// What the gate looks at in the head of a request. Borrows the bytes that the host handed over.
#[derive(Clone, Debug, Default)]
pub struct Head<'h> {
    /// `:method`; empty if there is none.
    pub method: &'h [u8],
    /// `:path` with its query; a CONNECT has none.
    pub path: Option<&'h [u8]>,
    /// `:authority`; empty if there is none.
    pub authority: &'h [u8],
    /// `content-type`.
    pub content_type: Option<&'h [u8]>,
    /// `origin`.
    pub origin: Option<&'h [u8]>,
    /// `access-control-request-method`.
    pub requested_method: Option<&'h [u8]>,
    /// `access-control-request-headers`.
    pub requested_headers: Option<&'h [u8]>,
    /// The first `authorization`.
    pub authorization: Option<&'h [u8]>,
    /// There are several `authorization` fields.
    pub authorization_repeated: bool,
    /// A field in which gRPC clients send a macaroon is there (spec/l402 section 2.3).
    pub has_metadata: bool,
    /// `payment-authorization` is there.
    pub has_payment_authorization: bool,
    /// The client's connection is, or is said to be, TLS: `:scheme`.
    pub is_https: bool,
    /// A field in our own name space, which only the gate may set.
    pub has_ours: bool,
    /// A field by which some upstreams take another path or method than that of the request, or
    /// Envoy another way of forwarding it than its route's.
    pub has_overrides: bool,
    /// The client says by `grpc-timeout` how long it waits: Envoy and the upstream may keep to it.
    pub has_deadline: bool,
    /// All fields.
    pub pairs: Pairs<'h>,
}

/// Metadata names of spec/l402 section 2.3.
pub const METADATA: [&[u8]; 3] = [b"macaroon", b"grpc-metadata-macaroon", b"token"];

impl<'h> Head<'h> {
    /// Sorts the fields.
    #[must_use]
    pub fn new(pairs: Pairs<'h>) -> Self {
        let mut head = Self {
            pairs,
            ..Self::default()
        };
        for (name, value) in pairs.iter() {
            match name {
                b":method" => head.method = value,
                b":path" => head.path = Some(value),
                b":authority" => head.authority = value,
                b":scheme" => head.is_https = value.eq_ignore_ascii_case(b"https"),
                b"content-type" => head.content_type = Some(value),
                b"origin" => head.origin = Some(value),
                b"access-control-request-method" => head.requested_method = Some(value),
                b"access-control-request-headers" => head.requested_headers = Some(value),
                b"authorization" => {
                    head.authorization_repeated |= head.authorization.is_some();
                    head.authorization = head.authorization.or(Some(value));
                }
                b"macaroon" | b"grpc-metadata-macaroon" | b"token" => head.has_metadata = true,
                b"payment-authorization" => head.has_payment_authorization = true,
                b"grpc-timeout" => head.has_deadline = true,
                [b'x' | b'X', ..] => {
                    head.has_ours |= is_ours(name);
                    head.has_overrides |= is_override(name) || is_control(name);
                }
                _ => {}
            }
        }
        head
    }

    /// A gRPC request, by the same rule as Envoy's: a reply with a gRPC status to any other request
    /// would reach the client as 200. gRPC-Web is not gRPC here.
    #[must_use]
    pub fn is_grpc(&self) -> bool {
        self.path.is_some()
            && self
                .content_type
                .and_then(|value| value.strip_prefix(b"application/grpc"))
                .is_some_and(|rest| matches!(rest.first(), None | Some(b'+')))
    }

    /// A CORS preflight request (Fetch standard, section 3.2.2).
    #[must_use]
    pub fn is_preflight(&self) -> bool {
        self.method == b"OPTIONS" && self.origin.is_some() && self.requested_method.is_some()
    }
}

/// Names only the gate may set.
#[must_use]
pub fn is_ours(name: &[u8]) -> bool {
    const PREFIX: &[u8] = b"x-boltgate-";
    // Every request has names that begin with `x-`: most are told apart by their next letter.
    matches!(name, [_, _, b'b' | b'B', ..])
        && name
            .get(..PREFIX.len())
            .is_some_and(|start| reads_as(start, PREFIX))
}

/// Names by which frameworks take another path or method than that of the request, which is what
/// its price was found by.
#[must_use]
pub fn is_override(name: &[u8]) -> bool {
    const NAMES: [&[u8]; 5] = [
        b"x-original-url",
        b"x-rewrite-url",
        b"x-http-method-override",
        b"x-http-method",
        b"x-method-override",
    ];
    NAMES
        .iter()
        .any(|known| name.len() == known.len() && reads_as(name, known))
}

/// Names by which Envoy lets its clients change how a request is forwarded: its time limits, its
/// retries, which upstream it goes to, what its path was. Who pays by what was answered must not
/// choose when there is no answer.
#[must_use]
pub fn is_control(name: &[u8]) -> bool {
    const STARTS: [&[u8]; 12] = [
        b"upstream-",
        b"expected-rq-timeout-ms",
        b"max-retries",
        b"retry-",
        b"retriable-",
        b"is-timeout-retry",
        b"hedge-",
        b"original-",
        b"decorator-operation",
        b"fault-",
        b"immediate-health-check-fail",
        b"overloaded",
    ];
    // As with names of ours, the next letter tells most apart. Envoy knows them in lower case only,
    // to which it has brought them.
    matches!(name, [_, _, b'e', ..])
        && name
            .strip_prefix(b"x-envoy-")
            .is_some_and(|rest| STARTS.iter().any(|start| rest.starts_with(start)))
}

/// Whether an upstream could take one name for the other: CGI-like ones know no capitals and take
/// all that is neither letter nor digit for `_`.
#[must_use]
#[inline(never)]
pub fn reads_as(name: &[u8], known: &[u8]) -> bool {
    name.len() == known.len()
        && name.iter().zip(known).all(|(have, want)| {
            have.eq_ignore_ascii_case(want)
                || !have.is_ascii_alphanumeric() && !want.is_ascii_alphanumeric()
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pairs::encode;

    fn is_grpc(content_type: &[u8]) -> bool {
        let bytes = encode(&[(b":path", b"/"), (b"content-type", content_type)]);
        Head::new(Pairs::parse(&bytes).unwrap()).is_grpc()
    }

    #[test]
    fn grpc_web_is_not_grpc() {
        assert!(is_grpc(b"application/grpc") && is_grpc(b"application/grpc+proto"));
        for other in [
            &b"application/grpc-web"[..],
            b"application/grpc;a=b",
            b"application/json",
        ] {
            assert!(!is_grpc(other));
        }
    }

    #[test]
    fn names_that_an_upstream_could_read_as_ours_are_ours() {
        for name in [
            &b"x-boltgate-service"[..],
            b"x_boltgate_service",
            b"x-boltgate_tier",
            b"x.boltgate.tier",
            b"x-boltgate~tier",
            b"X-Boltgate-",
        ] {
            assert!(is_ours(name));
        }
        for name in [
            &b"x-boltgate"[..],
            b"x-bolt-gate-service",
            b"xxboltgate-service",
            b"boltgate-service",
            b"",
        ] {
            assert!(!is_ours(name));
        }
    }

    #[test]
    fn what_controls_envoy_is_told_from_what_envoy_says() {
        for name in [
            &b"x-envoy-upstream-rq-timeout-ms"[..],
            b"x-envoy-upstream-rq-per-try-timeout-ms",
            b"x-envoy-upstream-rq-timeout-alt-response",
            b"x-envoy-upstream-stream-duration-ms",
            b"x-envoy-upstream-alt-stat-name",
            b"x-envoy-retry-on",
            b"x-envoy-retry-grpc-on",
            b"x-envoy-retriable-status-codes",
            b"x-envoy-max-retries",
            b"x-envoy-hedge-on-per-try-timeout",
            b"x-envoy-expected-rq-timeout-ms",
            b"x-envoy-original-path",
            b"x-envoy-original-dst-host",
            b"x-envoy-decorator-operation",
            b"x-envoy-fault-abort-request",
        ] {
            assert!(is_control(name), "{}", String::from_utf8_lossy(name));
        }
        for name in [
            &b"x-envoy-external-address"[..],
            b"x-envoy-internal",
            b"x-envoy-peer-metadata",
            b"x-envoy-downstream-service-cluster",
            b"x-envoy-",
            b"x-e",
            b"x-retry-on",
        ] {
            assert!(!is_control(name), "{}", String::from_utf8_lossy(name));
        }
    }

    #[test]
    fn the_first_of_several_authorizations_is_kept_and_noted() {
        let bytes = encode(&[(b"authorization", b"a"), (b"authorization", b"b")]);
        let head = Head::new(Pairs::parse(&bytes).unwrap());
        assert_eq!(
            (head.authorization, head.authorization_repeated),
            (Some(&b"a"[..]), true)
        );
    }
}
