//! Whole tables, from real servers into both destinations.
