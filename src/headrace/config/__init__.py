"""headrace.config"""
