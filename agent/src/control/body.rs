//! Bodies of requests: a JSON object whose fields are known, in time and not too long. What is wrong is said with the name of the field.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::answer::Answer;

/// No honest request is longer.
const BYTES_MAX: usize = 256 * 1024;
/// So much is heard out, so that whoever sends too much hears of it.
const HEARD_MAX: usize = 8 << 20;
/// Nor does one take longer.
const WITHIN: Duration = Duration::from_secs(10);

/// The words of a request.
pub struct Words(Vec<u8>);

impl Words {
    /// As settings. Nothing at all, or an empty object, is a mistake of whoever made it: a template that came out empty must not take everything away.
    ///
    /// # Errors
    /// 400, with what is wrong.
    pub fn settings(&self) -> Result<Map<String, Value>, Answer> {
        let settings: Map<String, Value> = self.read()?;
        if settings.is_empty() {
            let why = "the body has no settings: send an object with what is to be";
            return Err(Answer::error(StatusCode::BAD_REQUEST, why).about("a body without settings"));
        }
        Ok(settings)
    }

    /// As an object of this shape; nothing at all is an empty one.
    ///
    /// # Errors
    /// 400, with what is wrong.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Answer> {
        let text: &[u8] = if self.0.trim_ascii().is_empty() { b"{}" } else { &self.0 };
        if text.trim_ascii().first() != Some(&b'{') {
            let why = "the body is no JSON object, such as {\"leader\": \"pg1\"}";
            return Err(Answer::error(StatusCode::BAD_REQUEST, why).about("a body that is no JSON object"));
        }
        let mut reader = serde_json::Deserializer::from_slice(text);
        let read = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            let path = error.path().to_string();
            let field = if path == "." { String::new() } else { format!("`{path}`: ") };
            format!("{field}{}", error.into_inner())
        });
        let whole = read.and_then(|read| reader.end().map(|()| read).map_err(|error| error.to_string()));
        // What is wrong may have a value in it, which is for whoever sent it alone.
        whole.map_err(|why| {
            Answer::error(StatusCode::BAD_REQUEST, format!("the body will not do: {why}"))
                .about("a body that will not do")
        })
    }
}

impl<S: Sync> FromRequest<S> for Words {
    type Rejection = Answer;

    async fn from_request(request: Request, _: &S) -> Result<Self, Answer> {
        let kind = request.headers().get(header::CONTENT_TYPE).map(|kind| kind.to_str().unwrap_or_default());
        let kind = kind.map(|kind| kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
        // `curl -d` says form-urlencoded unless told otherwise, and Patroni's documentation asks with it.
        let known = ["application/json", "application/x-www-form-urlencoded"];
        if let Some(kind) = kind.filter(|kind| !known.contains(&kind.as_str())) {
            let why = format!("a body of the kind {kind} is not understood: send application/json");
            return Err(Answer::error(StatusCode::UNSUPPORTED_MEDIA_TYPE, why).about("a body of another kind"));
        }
        match tokio::time::timeout(WITHIN, whole(request.into_body())).await {
            Ok(Ok(Some(bytes))) => Ok(Self(bytes)),
            Ok(Ok(None)) => {
                let why = format!("the body is longer than {BYTES_MAX} bytes");
                Err(Answer::error(StatusCode::PAYLOAD_TOO_LARGE, why).about("a body that is too long"))
            }
            Ok(Err(error)) => {
                let why = format!("the body cannot be read: {error}");
                Err(Answer::error(StatusCode::BAD_REQUEST, why).about("a body that cannot be read"))
            }
            Err(_) => {
                let why = format!("the body has not come within {WITHIN:?}");
                Err(Answer::error(StatusCode::REQUEST_TIMEOUT, why).about("a body that has not come"))
            }
        }
    }
}

/// All of it; `None`: it is too long.
async fn whole(mut body: Body) -> Result<Option<Vec<u8>>, axum::Error> {
    let (mut bytes, mut length) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        length += data.len();
        if length <= BYTES_MAX {
            bytes.extend_from_slice(&data);
        }
        if length > HEARD_MAX {
            break;
        }
    }
    Ok((length <= BYTES_MAX).then_some(bytes))
}
