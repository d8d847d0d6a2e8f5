use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(5);

/// Asks again and again until there is an answer; gives it.
///
/// # Panics
/// If there is none by the deadline: says what was waited for.
pub async fn wait_for<T, F>(what: &str, deadline: Duration, mut condition: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let since = Instant::now();
    loop {
        if let Some(answer) = condition().await {
            return answer;
        }
        assert!(since.elapsed() < deadline, "waited {deadline:?} for {what}, in vain");
        tokio::time::sleep(PAUSE).await;
    }
}

/// As [`wait_for`], where there is no runtime.
///
/// # Panics
/// If there is no answer by the deadline: says what was waited for.
pub fn wait_for_blocking<T>(what: &str, deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(answer) = condition() {
            return answer;
        }
        assert!(since.elapsed() < deadline, "waited {deadline:?} for {what}, in vain");
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_gives_the_first_answer() {
        let mut asked = 0;
        let answer = wait_for("the third question", Duration::from_secs(5), || {
            asked += 1;
            let answer = (asked == 3).then_some(asked);
            async move { answer }
        });
        assert_eq!(answer.await, 3);
    }

    #[test]
    #[should_panic(expected = "for a miracle, in vain")]
    fn it_says_what_never_came() {
        wait_for_blocking("a miracle", Duration::from_millis(1), || None::<()>);
    }
}
