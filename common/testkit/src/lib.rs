//! For tests only: a throwaway certificate authority, scratch directories, waiting for a condition.
