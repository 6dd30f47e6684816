"""One room per task: what sets text2music, repaint and cover apart."""
