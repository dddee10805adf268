"""What is said of variants from their judged replies: means, differences, ratings, reports."""
