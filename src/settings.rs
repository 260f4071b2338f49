//! How options and their variables are read, wherever they are declared.

use std::time::Duration;

/// The name of a variable that is set; an empty one is none.
pub(crate) fn given(name: &'static str) -> Option<&'static str> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(|_| name)
}

/// A number of seconds.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().map_err(|error| error.to_string())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
